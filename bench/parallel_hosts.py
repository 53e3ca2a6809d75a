"""One transformer step on several hosts, by the bandwidth of their links: Ulysses, ring and both, measured and predicted.

Hosts are network namespaces of this machine (network_hosts.py), so that they share its cores: a rank computes with its
share of them, which is what the prediction is given. Needs root.

    python3 bench/parallel_hosts.py --rondo build/release/rondo --plot docs/measured/parallel-hosts.svg
"""

import argparse
import json
import subprocess
import sys
from math import log10
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from network_hosts import NetworkHosts, refusal

WAYS = {"ulysses": (4, 1), "ring": (1, 4), "both": (2, 2)}  # ulysses degree, ring degree


def run_json(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(rondo, shape, bandwidths, runs):
    step = ["bench", "step", *shape, "--runs", runs, "--json"]
    alone = run_json([rondo, *step])
    print(f"alone, {alone['threads']} threads: {alone['ms'] / 1e3:.3f} s a step")
    ranks = 4
    share = alone["threads"] / ranks  # of a core, a rank
    rates = {"linear": alone["gflops_linear"], "attention": alone["gflops_attention"]}
    points = []
    with NetworkHosts(ranks) as hosts:
        for bandwidth in bandwidths:
            hosts.limit(bandwidth)
            plan = run_json([rondo, "plan", "parallel", *shape, "--ranks", ranks, "--bandwidth", f"{bandwidth}Gb",
                             "--linear-gflops", rates["linear"] / ranks, "--attention-gflops", rates["attention"] / ranks,
                             "--memory-bandwidth", 20 * share, "--json"])
            for name, (ulysses, ring) in WAYS.items():
                command = hosts.mpirun(ranks, [rondo, *step, "--ulysses-degree", ulysses, "--ring-degree", ring, "--threads", 1,
                                               "--rank-timeout", 60])
                measured = run_json(command)["ms"] / 1e3
                predicted = next(w["seconds"] for w in plan["ways"] if (w["ulysses_degree"], w["ring_degree"]) == (ulysses, ring))
                points.append({"way": name, "gigabits": bandwidth, "measured": measured, "predicted": predicted})
                print(f"{bandwidth:>6g} Gb/s {name:>8}: {measured:.3f} s a step, predicted {predicted:.3f} ({predicted / measured - 1:+.0%})",
                      flush=True)
    return alone, points


def plot(path, title, points):
    """Seconds a step against bandwidth (a logarithmic axis): measured points, predicted lines."""
    width, height, left, bottom, top, right = 640, 400, 60, 50, 40, 130
    xs, ys = [p["gigabits"] for p in points], [t for p in points for t in (p["measured"], p["predicted"])]
    low_x, high_x, most = log10(min(xs)), log10(max(xs)), max(ys) * 1.05
    x = lambda value: left + (log10(value) - low_x) / (high_x - low_x) * (width - left - right)
    y = lambda value: height - bottom - value / most * (height - bottom - top)
    colours = {"ulysses": "#1f77b4", "ring": "#d62728", "both": "#2ca02c"}
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/><text x="{left}" y="20" font-size="14">{title}</text>']
    for value in sorted(set(xs)):
        out.append(f'<line x1="{x(value):.1f}" y1="{top}" x2="{x(value):.1f}" y2="{height - bottom}" stroke="#ddd"/>'
                   f'<text x="{x(value):.1f}" y="{height - bottom + 18}" text-anchor="middle">{value:g}</text>')
    step = 10 ** int(log10(most)) / (1 if most / 10 ** int(log10(most)) > 3 else 5)
    for value in (step * i for i in range(int(most / step) + 1)):
        out.append(f'<line x1="{left}" y1="{y(value):.1f}" x2="{width - right}" y2="{y(value):.1f}" stroke="#ddd"/>'
                   f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    out.append(f'<text x="{(left + width - right) / 2}" y="{height - 12}" text-anchor="middle">Gb/s of a host\'s link</text>'
               f'<text transform="translate(16 {height / 2}) rotate(-90)" text-anchor="middle">seconds a step</text>')
    for i, (name, colour) in enumerate(colours.items()):
        mine = sorted((p for p in points if p["way"] == name), key=lambda p: p["gigabits"])
        line = " ".join(f"{x(p['gigabits']):.1f},{y(p['predicted']):.1f}" for p in mine)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        out += [f'<circle cx="{x(p["gigabits"]):.1f}" cy="{y(p["measured"]):.1f}" r="4" fill="{colour}"/>' for p in mine]
        ulysses, ring = WAYS[name]
        out.append(f'<circle cx="{width - right + 14}" cy="{top + 14 + 20 * i}" r="4" fill="{colour}"/>'
                   f'<text x="{width - right + 24}" y="{top + 18 + 20 * i}">ulysses {ulysses}, ring {ring}</text>')
    out.append(f'<text x="{width - right + 8}" y="{top + 88}">points: measured</text><text x="{width - right + 8}" y="{top + 106}">lines: predicted</text></svg>')
    Path(path).write_text("\n".join(out) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rondo", default="build/release/rondo", type=lambda p: str(Path(p).resolve()))
    parser.add_argument("--shape", default="--preset flux.1-dev --layers 0,1 --width 1024 --height 1024 --text-tokens 256",
                        help="flags of rondo bench step and rondo plan parallel")
    parser.add_argument("--bandwidths", default="0.1,0.25,0.5,1,2.5,10", help="Gb/s")
    parser.add_argument("--runs", default=3, type=int)
    parser.add_argument("--plot", help="SVG to write")
    parser.add_argument("--json", help="points to write")
    flags = parser.parse_args()
    reason = refusal()
    if reason:
        sys.exit(f"parallel_hosts: {reason}")
    alone, points = measure(flags.rondo, flags.shape.split(), [float(b) for b in flags.bandwidths.split(",")], flags.runs)
    worst = max(abs(p["predicted"] / p["measured"] - 1) for p in points)
    print(f"largest error of a prediction: {worst:.0%}")
    if flags.plot:
        plot(flags.plot, f"One FLUX-width block, {alone['tokens']} tokens, 4 hosts ({alone['cpu_level']})", points)
    if flags.json:
        Path(flags.json).write_text(json.dumps({"alone": alone, "points": points}, indent=1) + "\n")


if __name__ == "__main__":
    main()
