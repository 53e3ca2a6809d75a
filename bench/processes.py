#!/usr/bin/env python3
"""Memory and start of several processes that run one model, with packed weights of their own and shared through a weight
cache: what all of them take together (PSS), and the time to a first picture.

    bench/processes.py [--rondo build/release/rondo] [--model models/emoji] [--processes 4] [flags of rondo generate]
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path


def pss(process):
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no Pss line")


def first_picture_s(command, folder):
    start = time.perf_counter()
    subprocess.run([*command, "-p", "red heart", "-o", folder / "first.png"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(command, count, folder):
    prompts = folder / "prompts.txt"
    prompts.write_text("red heart\n" * 400)
    running = [
        subprocess.Popen(
            [*command, "--prompts-file", prompts, "-o", folder / f"{i}-{{index}}.png"], stdout=subprocess.DEVNULL
        )
        for i in range(count)
    ]
    time.sleep(5)
    memory = [pss(process) for process in running]
    for process in running:
        process.kill()
        process.wait()
    return memory


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rondo", default="build/release/rondo")
    parser.add_argument("--model", default="models/emoji")
    parser.add_argument("--processes", type=int, default=4)
    arguments, flags = parser.parse_known_args()
    base = [arguments.rondo, "generate", "-q", "--model", arguments.model, "--seed", "1", *flags]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, cache in (("packed by each", []), ("weight cache", ["--weight-cache", folder / "cache"])):
            times = [first_picture_s([*base, *cache], folder) for _ in range(6)][1:]
            memory = measure([*base, *cache], arguments.processes, folder)
            print(
                f"{label:16} first picture {statistics.median(times):6.2f} s; "
                f"{arguments.processes} processes {sum(memory):7.1f} MB, each {statistics.median(memory):6.1f} MB (PSS)"
            )


if __name__ == "__main__":
    main()
