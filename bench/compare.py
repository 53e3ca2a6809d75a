#!/usr/bin/env python3
"""Attention: Rondo and the peers that are installed, alternately in one process, as a table and a picture.

usage: compare.py [--dtype float32] [--threads 1] [--rounds 3] [--output FOLDER]

Peers: torch (scaled_dot_product_attention), openvino, onnxruntime (MultiHeadAttention, float32 only, no mask); what is
missing is left out. Rondo is the Python package (`pip install .`). All times are whole calls, the best of all rounds; each round
visits everybody, so that load from outside meets all alike. Writes attention-DTYPE-THREADS.md and .svg.
"""

import argparse
import importlib
import os
import time
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch

import rondo

@dataclass(frozen=True)
class Shape:
    """One sequence, or with `lengths` several that are packed; `mask`: boolean, a third dropped."""

    heads: int
    width: int
    queries: int
    keys: int
    causal: bool = False
    mask: bool = False
    lengths: tuple = ()

    @property
    def operations(self):
        pairs = sum(n * n for n in self.lengths) if self.lengths else self.queries * self.keys
        return 4.0 * self.heads * self.width * (pairs / 2 if self.causal else pairs)

    def __str__(self):
        kind = " causal" * self.causal + " mask" * self.mask
        tokens = f"{len(self.lengths)} mixed" if self.lengths else f"{self.queries} x {self.keys}"
        return f"{self.heads} x {self.width} x {tokens}{kind}"


# FLUX at 512 and 1024 pixels, a long video (one head group), Wan, SD3, cross-attention, many short heads, CLIP, packed
# sequences of 128 to 1,024 tokens, a mask.
SHAPES = [
    Shape(24, 128, 1024, 1024), Shape(24, 128, 4608, 4608), Shape(2, 128, 16384, 16384), Shape(12, 128, 3072, 3072),
    Shape(12, 128, 3072, 3072, causal=True), Shape(16, 72, 1024, 1024), Shape(40, 128, 1024, 512),
    Shape(24, 64, 4096, 4096), Shape(2, 64, 77, 77), Shape(12, 128, 1024, 1024, lengths=tuple(range(128, 1025, 128))),
    Shape(12, 128, 1024, 1024, mask=True),
]  # fmt: skip
COLOURS = {"rondo": "#2563eb", "rondo int8": "#0d9488", "torch": "#f97316", "openvino": "#7c3aed", "onnxruntime": "#64748b"}


def installed(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def openvino_runner(openvino, operands, mask, shape, dtype, threads):
    from openvino import opset13

    parameters = [opset13.parameter(list(x.shape), openvino.Type.f32) for x in operands]
    arrays = [x.float().numpy() for x in operands]
    inputs = list(parameters)
    if mask is not None:
        parameters.append(opset13.parameter(list(mask.shape), openvino.Type.boolean))
        arrays.append(mask.numpy())
        inputs.append(parameters[-1])
    model = openvino.Model([opset13.scaled_dot_product_attention(*inputs, causal=shape.causal)], parameters)
    hints = {"INFERENCE_PRECISION_HINT": "f32" if dtype == torch.float32 else "bf16", "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()
    return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)


def onnxruntime_runner(onnxruntime, operands, shape, threads):
    from onnx import TensorProto, helper

    heads, width = shape.heads, shape.width
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, x.shape[2], heads * width])
        for name, x in zip("qkv", operands)
    ]
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [1, operands[0].shape[2], heads * width])
    node = helper.make_node(
        "MultiHeadAttention", ["q", "k", "v"], ["o"], domain="com.microsoft", num_heads=heads,
        unidirectional=int(shape.causal),
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "g", values, [out]), opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {n: x.transpose(1, 2).reshape(1, x.shape[2], -1).contiguous().numpy() for n, x in zip("qkv", operands)}
    return lambda: session.run(None, feeds)


def quantised(call):
    """What quantises queries, keys and values in every call, with rotation."""
    return {f"rondo {dtype}": lambda dtype=dtype: call(kv_cache_dtype=dtype) for dtype in ("int8", "fp8")}


def packed_runners(shape, dtype):
    """Sequences of mixed lengths: one call of Rondo's; torch has none for the CPU and takes them one by one."""
    operands = [torch.randn(sum(shape.lengths), shape.heads, shape.width).to(dtype) for _ in range(3)]
    boundaries = [0, *accumulate(shape.lengths)]
    longest = max(shape.lengths)

    def one_by_one():
        for begin, end in zip(boundaries, boundaries[1:]):
            parts = (x[None, begin:end].transpose(1, 2) for x in operands)
            torch.nn.functional.scaled_dot_product_attention(*parts)

    def packed(**options):
        return rondo.attention_forward_varlen(*operands, boundaries, boundaries, longest, longest, **options)

    return {"rondo": packed, **quantised(packed), "torch": one_by_one}


def runners(shape, dtype, threads):
    if shape.lengths:
        return packed_runners(shape, dtype)
    tokens = (shape.queries, shape.keys, shape.keys)
    operands = [torch.randn(1, shape.heads, count, shape.width).to(dtype) for count in tokens]
    mask = torch.rand(1, 1, shape.queries, shape.keys) > 1 / 3 if shape.mask else None
    torch_attention = torch.nn.functional.scaled_dot_product_attention

    def own(**options):
        return rondo.attention_forward(*operands, mask, head_first=True, causal=shape.causal, **options)

    result = {
        "rondo": own,
        **quantised(own),
        "torch": lambda: torch_attention(*operands, attn_mask=mask, is_causal=shape.causal),
    }
    if openvino := installed("openvino"):
        result["openvino"] = openvino_runner(openvino, operands, mask, shape, dtype, threads)
    plain = dtype == torch.float32 and mask is None
    if plain and (onnxruntime := installed("onnxruntime")) and installed("onnx"):
        result["onnxruntime"] = onnxruntime_runner(onnxruntime, operands, shape, threads)
    return result


def measure(shape, dtype, threads, rounds):
    """GFLOP/s of the best call of each."""
    calls = 2 if shape.operations > 1e11 else 5 if shape.operations > 1e9 else 100
    everybody = runners(shape, dtype, threads)
    best = dict.fromkeys(everybody, float("inf"))
    for _ in range(rounds):
        for name, call in everybody.items():
            call()
            for _ in range(calls):
                start = time.perf_counter()
                call()
                best[name] = min(best[name], time.perf_counter() - start)
    return {name: shape.operations / seconds * 1e-9 for name, seconds in best.items()}


def geometric_mean(values):
    product = 1.0
    for value in values:
        product *= value
    return product ** (1 / len(values))


def table(rows, names):
    """Markdown; ratios are over the shapes that a peer has."""
    lines = ["| heads x dim x queries x keys | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for shape, row in rows:
        cells = (f"{row[name]:.0f}" if name in row else "" for name in names)
        lines.append(f"| {shape} | " + " | ".join(cells) + " |")
    ratios = {name: [row["rondo"] / row[name] for _, row in rows if name in row] for name in names}
    lines.append("| rondo over it, geometric mean | " + " | ".join(f"{geometric_mean(r):.2f}" for r in ratios.values()) + " |")
    lines.append("| rondo over it, least | " + " | ".join(f"{min(r):.2f}" for r in ratios.values()) + " |")
    return "\n".join(lines) + "\n"


def picture(rows, names, title):
    """Grouped bars, as SVG."""
    bar, gap, height, left, top = 16, 36, 220, 50, 40
    most = max(max(row.values()) for _, row in rows)
    width = left + len(rows) * (len(names) * bar + gap) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + height + 50}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="100%" fill="white"/><text x="{left}" y="16" font-size="13">{title}</text>',
    ]
    for i, name in enumerate(names):
        x = left + i * 110
        parts.append(f'<rect x="{x}" y="24" width="10" height="10" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{x + 14}" y="33">{name}</text>')
    for step in range(5):
        value = most * step / 4
        y = top + height - height * step / 4
        parts.append(f'<line x1="{left}" y1="{y:.0f}" x2="{width}" y2="{y:.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{value:.0f}</text>')
    for i, (shape, row) in enumerate(rows):
        x = left + gap / 2 + i * (len(names) * bar + gap)
        for j, name in enumerate(names):
            tall = height * row.get(name, 0) / most
            parts.append(
                f'<rect x="{x + j * bar:.0f}" y="{top + height - tall:.1f}" width="{bar - 2}" height="{tall:.1f}" '
                f'fill="{COLOURS[name]}"/>'
            )
        middle = x + len(names) * bar / 2
        words = str(shape).split(" x ", 2)
        for k, label in enumerate((f"{words[0]}x{words[1]}", words[2].replace(" x ", "x"))):
            parts.append(f'<text x="{middle:.0f}" y="{top + height + 15 + 14 * k}" text-anchor="middle">{label}</text>')
    return "\n".join(parts) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("."))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["RONDO_THREADS"] = str(args.threads)
    torch.set_grad_enabled(False)
    dtype = getattr(torch, args.dtype)
    rows = []
    for shape in SHAPES:
        rows.append((shape, measure(shape, dtype, args.threads, args.rounds)))
        print(str(shape), {name: round(value, 1) for name, value in rows[-1][1].items()}, flush=True)
    names = list(rows[0][1])  # nobody is left out of the first
    stem = f"attention-{args.dtype}-{args.threads}"
    (args.output / f"{stem}.md").write_text(table(rows, names))
    title = f"GFLOP/s, {args.dtype}, threads: {args.threads}"
    (args.output / f"{stem}.svg").write_text(picture(rows, names, title))


if __name__ == "__main__":
    main()
