#!/usr/bin/env python3
"""Speed against quality of every way of quantising attention: a table and a picture.

usage: attention_tradeoff.py [--rondo build/release/rondo] [--level LEVEL] [--threads 1] [--rounds 5] [--output FOLDER]

Speed: rondo bench attention at two shapes, all ways alternated in every round, medians. Quality: the worst layer and step of a
run of the bundled model (rondo eval attention --capture). Writes attention-tradeoff-LEVEL.md and .svg.
"""

import argparse
import json
import os
import statistics
import subprocess
from pathlib import Path

SHAPES = {"24 x 128 x 4608": "q=1x24x4608x128", "16 x 72 x 1024": "q=1x16x1024x72"}
WAYS = {
    "int8": "kv_cache=int8",
    "int8 rotated": "kv_cache=int8 rotation=1",
    "int8 rotated smoothed": "kv_cache=int8 rotation=1 smooth_k=1",
    "fp8": "kv_cache=fp8",
    "fp8 rotated": "kv_cache=fp8 rotation=1",
    "fp8 rotated smoothed": "kv_cache=fp8 rotation=1 smooth_k=1",
}
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")


def rondo_json(arguments, *command):
    environment = {**os.environ, **({"RONDO_CPU_LEVEL": arguments.level} if arguments.level else {})}
    result = subprocess.run([arguments.rondo, *command, "--json"], check=True, capture_output=True, text=True, env=environment)
    return json.loads(result.stdout)


def measure_speed(arguments):
    """{shape: {way or dtype: milliseconds}} and the level's name."""
    times = {}
    for _ in range(arguments.rounds):
        for name, shape in SHAPES.items():
            problems = {"float32": f"{shape} dtype=float32", "bfloat16": f"{shape} dtype=bfloat16"}
            problems |= {way: f"{shape} dtype={arguments.dtype} {settings}" for way, settings in WAYS.items()}
            flags = [part for problem in problems.values() for part in ("--problem", problem)]
            rows = rondo_json(arguments, "bench", "attention", "--threads", str(arguments.threads), "--runs", "3", *flags)
            for way, row in zip(problems, rows):
                times.setdefault(name, {}).setdefault(way, []).append(row["ms"])
    medians = {name: {way: statistics.median(each) for way, each in ways.items()} for name, ways in times.items()}
    return medians, rows[0]["cpu_level"]


def measure_quality(arguments):
    """{way: (lowest cosine, highest relative L2)} of all layers."""
    worst = {}
    for row in rondo_json(arguments, "eval", "attention", "--capture")["layers"]:
        if not row["layer"].isdigit():
            continue
        way = row["kv_cache_dtype"] + (" rotated" if row["rotation"] == "hadamard" else "") + (" smoothed" if row["smooth_k"] else "")
        cosine, error = worst.get(way, (1.0, 0.0))
        worst[way] = (min(cosine, row["cosine"]), max(error, row["relative_l2"]))
    return worst


def table(times, quality, native):
    lines = ["| | " + " | ".join(f"{shape}, ms | x {native}" for shape in times) + " | cosine | relative L2 |"]
    lines.append("|---|" + "---|" * (2 * len(times) + 2))
    for way in ("float32", "bfloat16", *WAYS):
        cells = [f"{ways[way]:.1f} | {ways[native] / ways[way]:.2f}" for ways in times.values()]
        cells += [f"{quality[way][0]:.5f}", f"{quality[way][1]:.4f}"] if way in quality else ["", ""]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def picture(times, quality, native, title):
    width, height, left, top = 520, 300, 70, 50
    speeds = [[ways[native] / ways[way] for way in WAYS] for ways in times.values()]
    most_x = max(2.0, 1.1 * max(max(each) for each in speeds))
    most_y = 1.2 * max(quality[way][1] for way in WAYS)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 230}" height="{top + height + 60}" '
             'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
             f'<text x="{left}" y="24">{title}</text>',
             f'<text x="{left + width / 2}" y="{top + height + 44}" text-anchor="middle">speed, x {native}</text>',
             f'<text transform="translate(18 {top + height / 2}) rotate(-90)" text-anchor="middle">relative L2, worst layer</text>']
    for i in range(5):
        x, y = most_x * i / 4, most_y * i / 4
        parts.append(f'<text x="{left + width * i / 4}" y="{top + height + 20}" text-anchor="middle">{x:.2f}</text>')
        parts.append(f'<text x="{left - 8}" y="{top + height - height * i / 4 + 4}" text-anchor="end">{y:.3f}</text>')
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{top + height - height * i / 4}" '
                     f'y2="{top + height - height * i / 4}" stroke="#ddd"/>')
    at_one = left + width / most_x
    parts.append(f'<line x1="{at_one:.1f}" x2="{at_one:.1f}" y1="{top}" y2="{top + height}" stroke="#888" stroke-dasharray="4 3"/>')
    for index, (way, colour) in enumerate(zip(WAYS, COLOURS)):
        y = top + height - height * quality[way][1] / most_y
        for hollow, each in enumerate(speeds):
            x = left + width * each[index] / most_x
            fill = "white" if hollow else colour
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<circle cx="{left + width + 20}" cy="{top + 20 * index}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{left + width + 32}" y="{top + 20 * index + 4}">{way}</text>')
    for hollow, shape in enumerate(times):
        y = top + 20 * (len(WAYS) + 1 + hollow)
        parts.append(f'<circle cx="{left + width + 20}" cy="{y}" r="5" fill="{"white" if hollow else "#555"}" stroke="#555" stroke-width="2"/>')
        parts.append(f'<text x="{left + width + 32}" y="{y + 4}">{shape}</text>')
    return "\n".join(parts) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rondo", default="build/release/rondo")
    parser.add_argument("--level", help="RONDO_CPU_LEVEL, below the CPU's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("docs/measured"))
    arguments = parser.parse_args()
    version = subprocess.run([arguments.rondo, "--version"], check=True, capture_output=True, text=True).stdout
    native_bf16 = "level avx512_bf16" in version or "level avx512_amx" in version
    arguments.dtype = native = "bfloat16" if native_bf16 and arguments.level in (None, "avx512_bf16", "avx512_amx") else "float32"
    times, level = measure_speed(arguments)
    quality = measure_quality(arguments)
    stem = arguments.output / f"attention-tradeoff-{level}"
    stem.with_suffix(".md").write_text(table(times, quality, native))
    stem.with_suffix(".svg").write_text(picture(times, quality, native, f"Quantised attention, level {level}, {arguments.threads} thread(s)"))
    print(table(times, quality, native))


if __name__ == "__main__":
    main()
