#!/usr/bin/env python3
"""What each acceleration gains on this machine, alone and together: median denoising step of the bundled model and of a
FLUX-width block stack, all variants alternated in every round.

    bench/gains.py [--rondo build/release/rondo] [--rounds 7] [--flux]
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

PLAIN = ["--no-compile", "--cfg-fusion", "off", "--lanes", "1"]
EMOJI = {
    "plain": PLAIN,
    "compile": ["--compile", "--cfg-fusion", "off", "--lanes", "1"],
    "CFG fusion": ["--no-compile", "--cfg-fusion", "on", "--lanes", "1"],
    "lanes": ["--no-compile", "--cfg-fusion", "off", "--lanes", "2"],
    "w8a8": [*PLAIN, "--quantize", "w8a8"],
    "compile + CFG fusion": ["--compile", "--cfg-fusion", "on", "--lanes", "1"],
    "compile + lanes": ["--compile", "--lanes", "2"],
    "compile + lanes + w8a8": ["--compile", "--lanes", "2", "--quantize", "w8a8"],
}
FLUX = {
    "plain": ["--no-compile"],
    "compile": ["--compile"],
    "w8a8": ["--no-compile", "--quantize", "w8a8"],
    "compile + w8a8": ["--compile", "--quantize", "w8a8"],
    "compile + w8a16": ["--compile", "--quantize", "w8a16"],
    "compile + w4a16": ["--compile", "--quantize", "w4a16"],
}


def run(*command):
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def emoji_step_ms(rondo, folder, flags):
    report = folder / "report.json"
    run(rondo, "generate", "-q", "-p", "red heart", "--seed", 1, "-o", folder / "a.png", "--report", report, *flags)
    return statistics.median(step["duration_ms"] for step in json.loads(report.read_text())["denoise_steps_ms"])


def flux_step_ms(rondo, _, flags):
    return json.loads(run(rondo, "bench", "step", "--layers", "1,2", "--runs", 2, "--json", *flags))["ms_min"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rondo", default="build/release/rondo")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--flux", action="store_true", help="FLUX width (1 double, 2 single blocks, 1,536 tokens)")
    arguments, flags = parser.parse_known_args()
    variants, step_ms = (FLUX, flux_step_ms) if arguments.flux else (EMOJI, emoji_step_ms)
    times = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for name, own in variants.items():
                times[name].append(step_ms(arguments.rondo, Path(folder), [*own, *flags]))
    first = statistics.median(times["plain"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:24} {median:10.2f} ms  {first / median:5.2f} x")


if __name__ == "__main__":
    main()
