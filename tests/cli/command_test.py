"""The command as a person calls it: good calls, bad calls, and what they leave behind."""

import json
import math
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest
import zlib
from pathlib import Path

RONDO = os.environ["RONDO"]
ROOT = Path(__file__).resolve().parents[2]
EMOJI = ROOT / "models" / "emoji"
QUICK = ["--num-inference-steps", "2", "--true-cfg-scale", "1"]


def pixels(path):
    """The bytes of a PNG's picture, filters undone (8-bit RGB, as rondo writes it)."""
    data, at, packed, width = path.read_bytes(), 8, b"", 0
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        if kind == b"IHDR":
            width = struct.unpack(">I", data[at + 8:at + 12])[0]
        if kind == b"IDAT":
            packed += data[at + 8:at + 8 + length]
        at += length + 12
    raw, stride, rows, above = zlib.decompress(packed), width * 3, [], [0] * (width * 3)
    for start in range(0, len(raw), stride + 1):
        kind, row = raw[start], list(raw[start + 1:start + 1 + stride])
        for i in range(stride):
            a, b, c = (row[i - 3] if i >= 3 else 0), above[i], (above[i - 3] if i >= 3 else 0)
            nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row[i] = (row[i] + (0, a, b, (a + b) // 2, nearest)[kind]) % 256
        rows.append(row)
        above = row
    return rows


def rondo(*arguments, **more):
    return subprocess.run([RONDO, *map(str, arguments)], capture_output=True, timeout=120, **more)


class CommandTest(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="rondo-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def generate(self, *arguments, **more):
        return rondo("generate", "--quiet", "--prompt", "cat face", "--seed", 1, *QUICK, *arguments, **more)

    def assert_fails(self, result, code, *parts):
        """One clear line on stderr, nothing on stdout, the right exit code."""
        error = result.stderr.decode()
        self.assertEqual(result.returncode, code, error)
        self.assertEqual(result.stdout, b"")
        lines = [line for line in error.splitlines() if line.startswith("rondo: ")]
        self.assertEqual(len(lines), 1, error)
        for part in parts:
            self.assertIn(part, lines[0])

    def copy_model(self):
        model = self.folder / "model"
        shutil.copytree(EMOJI, model)
        for path in model.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return model

    def edit_config(self, model, component, **changes):
        path = model / component / ("scheduler_config.json" if component == "scheduler" else "config.json")
        config = json.loads(path.read_text())
        config.update(changes)
        path.write_text(json.dumps(config))


class GoodCalls(CommandTest):
    def test_picture_report_and_again_from_the_picture(self):
        picture, report, again = self.folder / "a.png", self.folder / "run.json", self.folder / "b.png"
        result = self.generate("--output", picture, "--report", report)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout.decode(), f"{picture}\n")
        run = json.loads(report.read_text())
        for key in ("total_duration_ms", "steps", "denoise_steps_ms", "peak_memory_bytes", "components", "notes", "cpu", "request"):
            self.assertIn(key, run)
        self.assertEqual(len(run["denoise_steps_ms"]), 2)
        transformer = next(c for c in run["components"] if c["name"] == "transformer")
        self.assertLess(transformer["arena_bytes"], transformer["naive_bytes"])
        result = rondo("generate", "--quiet", "--from", picture, "--output", again)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(picture.read_bytes(), again.read_bytes())

    def test_picture_i_of_several_is_seed_plus_i_alone(self):
        self.assertEqual(self.generate("--num-images-per-prompt", 3, "--output", self.folder / "s.png").returncode, 0)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["s-0.png", "s-1.png", "s-2.png"])
        self.assertEqual(self.generate("--seed", 3, "--output", self.folder / "alone.png").returncode, 0)
        self.assertEqual((self.folder / "s-2.png").read_bytes(), (self.folder / "alone.png").read_bytes())

    def test_name_patterns_and_stdout(self):
        self.assertEqual(self.generate("--output", self.folder / "p-{seed}-{index}.png", "--num-images-per-prompt", 2).returncode, 0)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["p-1-0.png", "p-2-1.png"])
        result = self.generate("--output", "-")
        self.assertTrue(result.stdout.startswith(b"\x89PNG"))
        self.assertEqual(result.stdout, (self.folder / "p-1-0.png").read_bytes())
        self.assertEqual(self.generate("--output", "/dev/null").returncode, 0)

    def test_the_last_of_a_flag_given_twice_wins(self):
        self.generate("--output", self.folder / "one.png", "--seed", 9)
        self.generate("--seed", 5, "--seed", 9, "--output", self.folder / "x.png", "--output", self.folder / "two.png")
        self.assertEqual((self.folder / "one.png").read_bytes(), (self.folder / "two.png").read_bytes())

    def test_a_drawn_seed_is_printed(self):
        result = rondo("generate", "-q", "-p", "x", *QUICK, "-o", "/dev/null")
        self.assertRegex(result.stderr.decode(), r"seed: \d+")

    def test_threads_and_passes_change_rounding_at_most(self):
        pictures = []
        for i, flags in enumerate((["--threads", 1], ["--threads", 2], ["--passes", ""], ["--no-pass", "dead-nodes"])):
            path = self.folder / f"{i}.png"
            self.assertEqual(self.generate("--dtype", "f32", "--output", path, *flags).returncode, 0)
            pictures.append(pixels(path))
        for other in pictures[1:]:
            worst = max(abs(a - b) for mine, theirs in zip(pictures[0], other) for a, b in zip(mine, theirs))
            self.assertLessEqual(worst, 1)
        self.assertNotEqual(pictures[0][0], pictures[0][32])  # there is a picture to compare

    def test_version_env_inspect_help(self):
        self.assertRegex(rondo("--version").stdout.decode(), r"^rondo \d+\.\d+\.\d+ \(")
        self.assertIn("RONDO_CPU_LEVEL", rondo("env").stdout.decode())
        self.assertIn("generate", rondo("--help").stdout.decode())
        text = rondo("inspect", EMOJI, "--tensors").stdout.decode()
        for part in ("FluxTransformer2DModel", "transformer_blocks.0.attn.to_q.weight", "planned", "memory: about"):
            self.assertIn(part, text)
        self.assertIn("attention", rondo("inspect", EMOJI, "--graph", "transformer").stdout.decode())
        self.assertIn("dead-nodes", rondo("inspect", "--list-passes").stdout.decode())
        self.assertIn("tensors", rondo("inspect", EMOJI / "vae" / "diffusion_pytorch_model.safetensors").stdout.decode())

    def test_bench_step_json(self):
        result = rondo("bench", "step", "--preset", "emoji", "--layers", "1,1", "--width", 64, "--height", 64,
                       "--text-tokens", 32, "--dtype", "f32", "--runs", 2, "--json")
        row = json.loads(result.stdout)
        for key in ("schema_version", "preset", "dtype", "threads", "tokens", "ms", "ms_linear", "ms_attention", "ms_other", "gflops"):
            self.assertIn(key, row)
        self.assertEqual(row["tokens"], 48)

    def test_backends(self):
        listed = rondo("backends").stdout.decode()
        for name in ("flash", "onednn-bf16", "reference"):
            self.assertIn(name, listed)
        explained = rondo("backends", "--explain", "q=1x24x4608x128 kv=4608 dtype=f32 mask=none").stdout.decode()
        self.assertIn("onednn-bf16    no: takes bfloat16 only", explained)
        self.assertIn("selected: flash (first that supports it)", explained)
        forced = {**os.environ, "RONDO_ATTENTION_BACKEND": "reference"}
        self.assertIn("selected: reference (RONDO_ATTENTION_BACKEND)", rondo("backends", "--explain", "q=1x2x3x4", env=forced).stdout.decode())
        without = {**os.environ, "RONDO_DISABLE_BACKENDS": "flash"}
        self.assertIn("no: disabled by RONDO_DISABLE_BACKENDS", rondo("backends", "--explain", "q=1x2x3x4", env=without).stdout.decode())

    def test_attention_backend_is_the_transformers(self):
        for backend in ("flash", "reference"):
            report = self.folder / "run.json"
            result = self.generate("--attention-backend", backend, "--dtype", "f32", "-o", self.folder / f"{backend}.png", "--report", report)
            self.assertEqual(result.returncode, 0, result.stderr)
            transformer = next(c for c in json.loads(report.read_text())["components"] if c["name"] == "transformer")
            self.assertIn(f"attention: {backend} x 8", transformer["kernels"])
        one, other = pixels(self.folder / "flash.png"), pixels(self.folder / "reference.png")
        self.assertLessEqual(max(abs(a - b) for x, y in zip(one, other) for a, b in zip(x, y)), 1)
        self.assert_fails(self.generate("--attention-backend", "falsh", "-o", "/dev/null"), 2, "backend 'falsh'")
        self.assert_fails(self.generate("--attention-backend", "flash-bf16", "--dtype", "f32", "-o", "/dev/null"), 1, "flash-bf16")

    def test_bench_attention(self):
        shapes = self.folder / "shapes.txt"
        shapes.write_text("# one a line\nq=1x2x17x24 kv=33 mask=boolean\nq=2x4x9x8 kv_heads=2 causal=1 lse=1\n")
        result = rondo("bench", "attention", "--shapes", shapes, "--backend", "all", "--runs", 2, "--check", "--json")
        rows = json.loads(result.stdout)
        self.assertEqual({row["problem"].split(" dtype")[0] for row in rows}, {"q=1x2x17x24 kv=33", "q=2x4x9x8 kv=9"})
        for row in rows:
            for key in ("schema_version", "problem", "kernel", "dtype", "threads", "ms", "gflops", "error"):
                self.assertIn(key, row)
            self.assertLess(row["error"], 1e-4)
        check = ("--seed", 5, "--spread", 30, "--padding", 8, "--check", "--runs", 1)
        for problem in ("q=3x4x17x24 varlen=1 causal=1 lse=1", "q=2x4x17x24 kv=33 kv_heads=2 mask=additive mask_axes=bn layout=bnsd scale=own"):
            self.assertEqual(rondo("bench", "attention", "--problem", problem, *check).returncode, 0)
        table = rondo("bench", "attention", "--problem", "q=1x2x17x24", "--runs", 1).stdout.decode()
        self.assertIn("GFLOP/s", table)

    def test_cfg_fusion_draws_the_same_picture(self):
        pictures = {}
        for mode in ("off", "on", "auto"):
            path, report = self.folder / f"{mode}.png", self.folder / f"{mode}.json"
            flags = ("--true-cfg-scale", 3, "--negative-prompt", "blue", "--dtype", "f32", "--lanes", 1, "--cfg-fusion", mode, "--report", report)
            self.assertEqual(rondo("generate", "-p", "cat face", "--seed", 1, "--num-inference-steps", 4, "-o", path, *flags).returncode, 0)
            pictures[mode] = pixels(path)
            notes = " ".join(json.loads(report.read_text())["notes"])
            self.assertEqual("both branches in one run" in notes, mode != "off", notes)
        for mode in ("on", "auto"):
            self.assertLessEqual(max(abs(a - b) for x, y in zip(pictures[mode], pictures["off"]) for a, b in zip(x, y)), 1)
        report = self.folder / "one.json"
        self.assertEqual(self.generate("--cfg-fusion", "on", "--report", report, "-o", self.folder / "one.png").returncode, 0)
        self.assertIn("nothing to fuse", " ".join(json.loads(report.read_text())["notes"]))
        self.assert_fails(self.generate("--cfg-fusion", "maybe", "-o", "/dev/null"), 2, "--cfg-fusion: 'maybe'")

    def test_vae_tiling(self):
        pictures, arenas = {}, {}
        for mode in ("off", "on"):
            path, report = self.folder / f"{mode}.png", self.folder / f"{mode}.json"
            result = self.generate("--dtype", "f32", "--width", 128, "--height", 160, "--vae-tiling", mode, "-o", path, "--report", report)
            self.assertEqual(result.returncode, 0, result.stderr)
            pictures[mode] = [value for row in pixels(path) for value in row]
            run = json.loads(report.read_text())
            arenas[mode] = next(c["arena_bytes"] for c in run["components"] if c["name"] == "vae")
            self.assertEqual("decoded in overlapping tiles" in " ".join(run["notes"]), mode == "on")
        squares = sum((a - b) ** 2 for a, b in zip(pictures["on"], pictures["off"])) / len(pictures["on"])
        self.assertGreater(10 * math.log10(255**2 / squares), 30)
        self.assertLess(arenas["on"], arenas["off"] / 3)
        report = self.folder / "one.json"
        self.assertEqual(self.generate("--vae-tiling", "on", "-o", self.folder / "one.png", "--report", report).returncode, 0)
        self.assertIn("the picture is one tile", " ".join(json.loads(report.read_text())["notes"]))
        self.assert_fails(self.generate("--vae-tiling", "maybe", "-o", "/dev/null"), 2, "--vae-tiling: 'maybe'")

    def test_each_pass_alone_keeps_the_picture(self):
        def draw(*flags):
            path = self.folder / "a.png"
            self.assertEqual(self.generate("--dtype", "f32", "-o", path, *flags).returncode, 0)
            return pixels(path)

        plain = draw("--no-compile")
        names = [line.split(":")[0] for line in rondo("inspect", "--list-passes").stdout.decode().splitlines()]
        self.assertIn("join-linears", names)
        for flags in (["--compile"], *(["--passes", name] for name in names), *(["--no-pass", name] for name in names)):
            with self.subTest(flags):
                self.assertLessEqual(max(abs(a - b) for x, y in zip(draw(*flags), plain) for a, b in zip(x, y)), 1)
        plan = rondo("inspect", EMOJI, "--plan", "--explain-fusion").stdout.decode()
        self.assertIn("pass fuse-norm-rope: 36 nodes matched, 16 removed", plan)
        self.assertIn("near miss at", plan)
        disabled = rondo("inspect", EMOJI, "--plan", env={**os.environ, "RONDO_DISABLE_COMPILE": "1"}).stdout.decode()
        self.assertNotIn("pass fuse", disabled)
        self.assert_fails(self.generate("--no-compile", "--passes", "dead-nodes", "-o", "/dev/null"), 2, "--no-compile")
        self.assert_fails(self.generate("-o", "/dev/null", env={**os.environ, "RONDO_DISABLE_COMPILE": "2"}), 2, "RONDO_DISABLE_COMPILE")

    def test_every_two_passes_together_keep_the_picture(self):
        def draw(*flags):
            path = self.folder / "a.png"
            self.assertEqual(self.generate("--dtype", "f32", "--num-inference-steps", 1, "-o", path, *flags).returncode, 0)
            return pixels(path)

        plain = draw("--no-compile")
        names = [line.split(":")[0] for line in rondo("inspect", "--list-passes").stdout.decode().splitlines()]
        for i, first in enumerate(names):
            for second in names[i + 1:]:
                with self.subTest(first=first, second=second):
                    pair = draw("--passes", f"{first},{second}")
                    self.assertLessEqual(max(abs(a - b) for x, y in zip(pair, plain) for a, b in zip(x, y)), 1)

    def empty_file(self):
        path = self.folder / "empty"
        path.write_text("# nothing\n")
        return path

    def psnr(self, first, second):
        result = rondo("eval", "picture", first, second)
        self.assertEqual(result.returncode, 0, result.stderr)
        return float(result.stdout.decode().split()[1])

    def test_quantised_linears(self):
        def draw(name, *flags):
            report = self.folder / "report.json"
            result = self.generate("-o", self.folder / name, "--report", report, *flags)
            self.assertEqual(result.returncode, 0, result.stderr)
            transformer = json.loads(report.read_text())["components"][2]
            return self.folder / name, transformer

        plain, unquantised = draw("plain.png")
        self.assertNotIn("quantize-linears", str(unquantised["passes"]))
        for name, least, smaller in (("w8a8", 40, 1.2), ("w8a16", 40, 1.2), ("w4a16", 25, 1.4)):
            with self.subTest(name):
                picture, transformer = draw(f"{name}.png", "--quantize", name)
                self.assertIn("quantize-linears: 54 nodes matched", str(transformer["passes"]))
                self.assertGreater(self.psnr(plain, picture), least)
                self.assertLess(transformer["resident_bytes"] * smaller, unquantised["resident_bytes"])
        native, _ = draw("native.png", "--quantize", "w8a8", "--quantize-skip-steps", "0-1")
        self.assertEqual(pixels(native), pixels(plain))
        _, transformer = draw("beyond.png", "--quantize", "w8a8", "--quantize-skip-steps", "5")
        self.assertIn("5 lies beyond the request's steps, 0 to 1", (self.folder / "report.json").read_text())
        _, ruled = draw("ruled.png", "--quantize-rule", "*to_q=w8a8", "--quantize-rule", "*single*=none")
        self.assertIn("quantize-linears: 2 nodes matched", str(ruled["passes"]))

        folder, prompts = self.folder / "model", self.folder / "prompts.txt"
        prompts.write_text("red heart\n# no prompt\n\ncat face\n")
        flags = ["--to", "w8a8", "--calibrate", prompts, "--calibration-steps", 1, "--quantize-rotation", "hadamard"]
        result = rondo("quantize", EMOJI, "-q", "-o", folder, *flags)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("left: '*norm*' excludes it", result.stdout.decode())
        picture, transformer = draw("folder.png", "--model", folder)
        self.assertIn("quantize-linears: 54 nodes matched", str(transformer["passes"]))
        self.assertGreater(self.psnr(plain, picture), 40)
        self.assertLess(transformer["weight_bytes"] * 1.4, unquantised["weight_bytes"])
        again, transformer = draw("none.png", "--model", folder, "--quantize", "none")
        self.assertNotIn("quantize-linears", str(transformer["passes"]))
        self.assertGreater(self.psnr(plain, again), 40)
        plan = rondo("inspect", folder, "--plan", "--explain-fusion").stdout.decode()
        self.assertIn("quantize-linears: 54 nodes", plan)
        self.assert_fails(rondo("quantize", folder, "--to", "w8a8", "-o", self.folder / "x"), 1, "is quantised already")
        self.assert_fails(rondo("quantize", EMOJI, "--to", "w8a8", "-o", folder), 1, "exists; a new folder")
        self.assert_fails(rondo("quantize", EMOJI, "--to", "w2", "-o", self.folder / "x"), 2, "'w2' is given; allowed are w8a8")
        self.assert_fails(rondo("quantize", EMOJI, "--to", "w8a8", "-o", self.folder / "x", "--quantize-exclude", "*"), 2, "no layer is left")
        self.assertEqual(sorted(path.name for path in self.folder.iterdir() if path.is_dir()), ["model"])  # nothing half done

        result = rondo("eval", "linears", "--num-inference-steps", 2, "--quantize", "w8a8", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        evaluation = json.loads(result.stdout)
        self.assertGreater(evaluation["psnr_db"], 40)
        cosines = [layer["cosine"] for layer in evaluation["layers"] if layer["quantized"]]
        self.assertEqual(len(cosines), 54)
        self.assertGreater(min(cosines), 0.999)
        self.assertLess(min(cosines), 1)

    def test_prompts_file_and_instances(self):
        prompts, report = self.folder / "prompts.txt", self.folder / "report.json"
        prompts.write_text("cat face\nred heart\n\ncat face\n")
        result = rondo("generate", "-q", "--prompts-file", prompts, "--instances", 2, "--seed", 1, *QUICK, "--threads", 1,
                       "-o", self.folder / "{index}-{seed}.png", "--report", report)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(sorted(path.name for path in self.folder.glob("*.png")), ["0-1.png", "1-2.png", "2-3.png"])
        self.assertEqual(self.generate("--threads", 1, "-o", self.folder / "one.png").returncode, 0)
        self.assertEqual(pixels(self.folder / "one.png"), pixels(self.folder / "0-1.png"))
        self.assertEqual([picture["error"] for picture in json.loads(report.read_text())["pictures"]], ["", "", ""])
        prompts.write_bytes(b"cat face\ncaf\xff\n")
        self.assert_fails(rondo("generate", "-q", "--prompts-file", prompts, "-o", self.folder / "b{index}.png"), 2, "UTF-8")
        self.assertEqual(list(self.folder.glob("b*.png")), [])  # refused before any work
        self.assert_fails(rondo("generate", "-p", "x", "--instances", 2), 2, "--instances: --prompts-file is missing")
        self.assert_fails(rondo("generate", "-p", "x", "--prompts-file", prompts), 2, "--prompt:")
        self.assert_fails(rondo("generate", "--prompts-file", prompts, "--instances", 0), 2, "--instances: 0")
        self.assert_fails(rondo("generate", "--prompts-file", self.empty_file()), 1, "holds no prompt")
        bench = json.loads(rondo("bench", "instances", "--pictures", 1, "--rounds", 1, "--json").stdout)
        self.assertEqual([row["instances"] for row in bench["contenders"]], [1, 2])

    def test_profile_and_trace(self):
        profile = json.loads(rondo("profile", "--num-inference-steps", 1, "--json").stdout)
        linear = next(row for row in profile["operators"] if row["operator"] == "linear" and row["component"] == "transformer")
        self.assertGreater(linear["gflops"], 0)
        self.assertIn(linear["bound"], ("compute", "memory", "cache", "latency", "dispatch"))
        trace = self.folder / "trace.json"
        self.assertEqual(self.generate("-o", self.folder / "a.png", "--trace", trace).returncode, 0)
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
        self.assertEqual({event["cat"] for event in events}, {"text_encoder", "text_encoder_2", "transformer", "vae"})
        for before, after in zip(events, events[1:]):  # one branch, but the encoders may be on two lanes
            self.assertTrue(before["tid"] != after["tid"] or before["ts"] + before["dur"] <= after["ts"] + 1e-3)
        self.assert_fails(self.generate("-o", self.folder / "a.png", "--trace", self.folder / "a.png"), 2, "--trace")

    def test_lanes_draw_the_same_picture(self):
        pictures, traces = {}, {}
        for lanes in ("1", "2", "auto"):
            picture, trace, report = (self.folder / f"{lanes}.{end}" for end in ("png", "trace", "json"))
            result = rondo("generate", "-q", "-p", "cat face", "--seed", 1, "--num-inference-steps", 2, "--true-cfg-scale", 3,
                           "--dtype", "f32", "--threads", 2, "--lanes", lanes, "-o", picture, "--trace", trace, "--report", report)
            self.assertEqual(result.returncode, 0, result.stderr)
            pictures[lanes] = [level for row in pixels(picture) for level in row]
            traces[lanes] = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
            self.assertEqual("lanes: the text encoders and both branches" in " ".join(json.loads(report.read_text())["notes"]), lanes != "1")
        for lanes in ("2", "auto"):
            self.assertLessEqual(max(abs(a - b) for a, b in zip(pictures["1"], pictures[lanes])), 1)
        self.assertEqual({event["tid"] for event in traces["1"]}, {0})
        self.assertEqual({event["tid"] for event in traces["2"]}, {0, 1})
        self.assertEqual({event["cat"] for event in traces["2"] if event["tid"] == 1}, {"text_encoder", "transformer"})
        self.assert_fails(self.generate("--lanes", "2", "--threads", "1", "-o", "/dev/null"), 2, "lanes: 2 are asked for")
        self.assert_fails(self.generate("--lanes", "3", "-o", "/dev/null"), 2, "--lanes: '3'")

    def test_config_file(self):
        config = self.folder / "c.yaml"
        config.write_text("# settings\ndtype: float32\ncompile: false\nquantize-rule: ['*to_q=w8a8', '*ff*=w8a16']\nseed: 7\n")

        def show(*flags, **more):
            result = rondo("config", "show", *flags, **more)
            self.assertEqual(result.returncode, 0, result.stderr)
            return {line.split()[0]: line.split()[1:] for line in result.stdout.decode().splitlines()}

        shown = show("--config", config, "--threads", 1)
        self.assertEqual(shown["dtype"], ["float32", str(config)])
        self.assertEqual(shown["compile"], ["false", str(config)])
        self.assertEqual(shown["quantize-rule"], ["*to_q=w8a8,*ff*=w8a16", str(config)])
        self.assertEqual(shown["threads"], ["1", "flag"])
        self.assertEqual(show("--config", config, "--dtype", "bf16", "--compile")["dtype"], ["bf16", "flag"])
        self.assertEqual(show("--config", config, "--compile")["compile"][-1], "flag")
        self.assertEqual(show(env={**os.environ, "RONDO_THREADS": "3"})["threads"], ["3", "RONDO_THREADS"])
        report = self.folder / "r.json"
        result = rondo("generate", "-q", "-p", "cat face", *QUICK, "--config", config, "-o", self.folder / "a.png", "--report", report)
        self.assertEqual(result.returncode, 0, result.stderr)
        told = json.loads(report.read_text())
        self.assertEqual((told["dtype"], told["request"]["seed"]), ("float32", 7))
        self.assertIn("quantize-linears", str(told["components"][2]["passes"]))
        for text, part in (("nope: 1", "'nope' is no flag"), ("dtype: [", "line "), ("compile: 3", "allowed are true and false"),
                           ("threads: {a: 1}", "neither a value"), ("- a", "no map")):
            config.write_text(text)
            self.assert_fails(rondo("config", "show", "--config", config), 1, part)
        config.write_text("dtype: int9")
        self.assert_fails(rondo("config", "show", "--config", config), 2, "--dtype: 'int9'")
        self.assert_fails(rondo("config", "show", "--config", self.folder / "absent"), 1, "absent")

    def test_tune_and_cache(self):
        env = {**os.environ, "RONDO_CACHE_DIR": str(self.folder / "cache")}
        problem = "q=1x2x17x24"
        self.assertIn("0 measured", rondo("cache", "list", env=env).stdout.decode())
        tuned = rondo("tune", "attention", "--problem", problem, "--threads", 1, env=env)
        self.assertEqual(tuned.returncode, 0, tuned.stderr)
        self.assertIn("ms with flash", tuned.stdout.decode())
        listed = rondo("cache", "list", env=env).stdout.decode()
        self.assertIn("1 measured", listed)
        self.assertIn("threads=1 | q=1x2x17x24", listed)
        explained = rondo("backends", "--explain", problem, env={**env, "RONDO_THREADS": "1"}).stdout.decode()
        self.assertIn("(measured to be the fastest)", explained)
        untuned = rondo("backends", "--explain", problem, env={**env, "RONDO_THREADS": "1", "RONDO_TUNE": "off"}).stdout.decode()
        self.assertIn("(first that supports it)", untuned)
        (self.folder / "cache" / "attention-tuning.json").write_text("{")
        damaged = rondo("backends", "--explain", problem, env=env)
        self.assertEqual(damaged.returncode, 0)
        self.assertEqual(damaged.stderr.decode().count("attention-tuning.json"), 1)
        self.assertIn("removed 0", rondo("cache", "clear", env=env).stdout.decode())
        self.assertFalse((self.folder / "cache" / "attention-tuning.json").exists())
        self.assertEqual(self.generate("--tune", "on", "-o", self.folder / "a.png", env=env).returncode, 0)
        self.assertNotIn(" 0 measured", rondo("cache", "list", env=env).stdout.decode())

    def test_progress_goes_to_stderr(self):
        result = rondo("generate", "-p", "x", "--seed", 1, *QUICK, "-o", self.folder / "a.png")
        self.assertEqual(result.stdout.decode(), f"{self.folder / 'a.png'}\n")
        self.assertIn("step 2/2", result.stderr.decode())

    def test_interrupt_ends_soon_and_leaves_nothing(self):
        process = subprocess.Popen([RONDO, "generate", "-q", "-p", "x", "--num-inference-steps", "1000", "--width", "256",
                                    "--height", "256", "-o", str(self.folder / "a.png")], stderr=subprocess.PIPE)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, error = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130, error)
        self.assertLess(time.monotonic() - start, 10)  # a second on an idle machine; never minutes
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_interrupt_ends_the_wait_for_a_fifo(self):
        fifo = self.folder / "pipe.png"
        os.mkfifo(fifo)
        process = subprocess.Popen([RONDO, "generate", "-q", "-p", "x", *QUICK, "-o", str(fifo)], stderr=subprocess.PIPE)
        time.sleep(2.0)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
        self.assertNotEqual(process.returncode, 0, error)


class WrongCalls(CommandTest):
    def test_values(self):
        for flags, part in (
            (["--width", "60"], "multiples of 8: the nearest are 56 and 64"),
            (["--width", "0"], "width: 0"), (["--height", "-8"], "height: -8"), (["--width", "99999999"], "width"),
            (["--width", "abc"], "--width: 'abc'"), (["--width", "1e2"], "--width"), (["--width", ""], "--width"),
            (["--num-inference-steps", "0"], "1 to 1000"), (["--num-inference-steps", "1001"], "1 to 1000"),
            (["--guidance-scale", "nan"], "guidance_scale"), (["--guidance-scale", "inf"], "guidance_scale"),
            (["--true-cfg-scale", "nan"], "true_cfg_scale"), (["--true-cfg-scale", "-1"], "true_cfg_scale"),
            (["--seed", "-1"], "--seed"), (["--seed", "18446744073709551616"], "--seed"), (["--seed", "1.5"], "--seed"),
            (["--max-sequence-length", "0"], "1 to 32"), (["--max-sequence-length", "33"], "1 to 32"),
            (["--num-images-per-prompt", "0"], "num_images_per_prompt"), (["--threads", "0"], "--threads"),
            (["--threads", "x"], "--threads"), (["--dtype", "float17"], "--dtype"), (["--dtype", "int8"], "dtype"),
            (["--no-pass", "nonsense"], "dead-nodes"), (["--passes", "nonsense"], "dead-nodes"),
            (["--quantize", "int3"], "quantize: 'int3' is given; allowed are w8a8"), (["--quantize-rule", "x"], "GLOB=FORMAT"),
            (["--quantize-rule", "x=w1"], "'w1'"), (["--quantize-group", "7"], "quantize-group: 7"),
            (["--quantize-rotation", "dct"], "hadamard and none"), (["--quantize-skip-steps", "3-1"], "'3-1' is given"),
            (["--output", "a.jpg"], ".png"), (["--no-such-flag"], "--no-such-flag"),
        ):
            with self.subTest(flags=flags):
                self.assert_fails(self.generate("--output", "/dev/null", *flags), 2, part)

    def test_an_empty_value_is_a_value(self):
        result = rondo("generate", "-q", "--prompt=", "--width=40", "--height=40", "--seed=1", *QUICK, "-o", self.folder / "a.png")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(len(pixels(self.folder / "a.png")), 40)
        self.assert_fails(rondo("generate", "--prompt"), 2, "--prompt: needs a value")
        self.assert_fails(rondo("generate", "-q", "--prompt", "x" * 70000, "-o", "/dev/null"), 2, "allowed are up to 65536")

    def test_calls(self):
        self.assert_fails(rondo("generate"), 2, "--prompt")
        self.assert_fails(rondo(), 2)
        self.assert_fails(rondo("nonsense"), 2)
        self.assert_fails(rondo("inspect"), 2)
        self.assert_fails(rondo("bench", "step", "--preset", "x"), 2, "flux.1-dev")
        self.assert_fails(rondo("bench", "step", "--layers", "1"), 2, "--layers")
        for problem, part in (("q=1x2x3", "HEADS"), ("kv=3", "missing"), ("q=1x2x3x4 mask=some", "mask=some"),
                              ("q=0x2x3x4", "1 to 16777216"), ("q=1x2x3x4 color=red", "color=red"),
                              ("q=1x3x3x4 kv_heads=2", "multiple"), ("q=1x2x3x4 dtype=f64", "f64")):
            self.assert_fails(rondo("backends", "--explain", problem), 2, part)
        self.assert_fails(rondo("bench", "attention", "--backend", "nonsense", "--problem", "q=1x2x3x4"), 2, "nonsense")
        self.assert_fails(rondo("bench", "attention", "--backend", "onednn-bf16", "--problem", "q=1x2x3x4"), 1, "onednn-bf16")
        self.assert_fails(rondo("bench", "attention", "--shapes", self.folder / "absent"), 1, "absent")
        self.assert_fails(rondo("bench", "attention", "--tune", "maybe", "--problem", "q=1x2x3x4"), 2, "--tune: 'maybe'")
        self.assert_fails(rondo("bench", "attention", "--problem", "q=1x2x3x4", env={"RONDO_TUNE": "maybe"}), 2, "RONDO_TUNE: 'maybe'")
        self.assert_fails(rondo("generate", "--prompt", "x", "--tune", "maybe"), 2, "--tune: 'maybe'")
        self.assert_fails(self.generate("--output", "-", "--num-images-per-prompt", 2), 2, "stdout")
        same = self.folder / "same.png"
        self.assert_fails(self.generate("--output", same, "--report", same), 2, "--report")
        for name in ("", f"{self.folder}/", "a.webp"):
            self.assert_fails(self.generate("--output", name), 2, "--output")

    def test_invalid_utf8(self):
        result = subprocess.run([RONDO.encode(), b"generate", b"-q", b"-p", b"caf\xff", b"-o", b"/dev/null"], capture_output=True)
        self.assert_fails(result, 2, "UTF-8")

    def test_environment(self):
        for name, value in (("RONDO_CPU_LEVEL", "sse9"), ("RONDO_THREADS", "many"), ("RONDO_LOG", "loud"), ("RONDO_REFERENCE_KERNELS", "liner"), ("RONDO_ATTENTION_BACKEND", "falsh"), ("RONDO_DISABLE_BACKENDS", "flash,falsh")):
            with self.subTest(name=name):
                self.assert_fails(self.generate("-o", "/dev/null", env={**os.environ, name: value}), 2, name)

    def test_bfloat16_where_there_is_none(self):
        result = self.generate("--dtype", "bf16", "-o", "/dev/null", env={**os.environ, "RONDO_CPU_LEVEL": "avx2"})
        self.assert_fails(result, 1, "dtype: bfloat16")


class Failures(CommandTest):
    def test_memory_limit(self):
        self.assert_fails(self.generate("--memory-limit", "20MB", "-o", "/dev/null"), 1, "size: 64 x 64 needs", "within the limit of 20 MB")
        self.assertEqual(self.generate("--memory-limit", "2GB", "-o", self.folder / "a.png").returncode, 0)
        report = self.folder / "r.json"
        result = self.generate("--memory-limit", "50MB", "--width", 256, "--height", 256, "-o", self.folder / "b.png", "--report", report)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("vae tiling", " ".join(json.loads(report.read_text())["notes"]))  # what is automatic heeds it
        for value in ("x", "-1GB", "0", "1TBB", "99999999999GB"):
            self.assert_fails(self.generate("--memory-limit", value, "-o", "/dev/null"), 2, "--memory-limit")

    def test_a_size_beyond_memory_is_refused_before_work(self):
        self.assert_fails(self.generate("--width", 16384, "--height", 16384, "--vae-tiling", "off", "-o", "/dev/null"), 1, "needs about")

    def test_closed_and_full_streams(self):
        for command, code in (("--nonsense 2>&-", 2), ("generate -p x -o /dev/null --num-inference-steps 1 2>&-", 0),
                              ("generate -p x -o /dev/null --num-inference-steps 1 2>/dev/full", 0),
                              ("--help >/dev/full", 1), ("env >/dev/full", 1)):
            with self.subTest(command=command):
                result = subprocess.run(["sh", "-c", f"'{RONDO}' {command}"], capture_output=True, timeout=60)
                self.assertEqual(result.returncode, code, result.stderr)

    def test_a_link_in_the_folder_is_not_followed(self):
        victim, picture = self.folder / "victim", self.folder / "a.png"
        victim.write_text("mine")
        picture.symlink_to("target.png")
        self.assertEqual(self.generate("--output", picture).returncode, 0)
        self.assertTrue(picture.is_symlink())
        self.assertTrue((self.folder / "target.png").read_bytes().startswith(b"\x89PNG"))
        self.assertEqual(victim.read_text(), "mine")
        self.assertEqual(len(list(self.folder.iterdir())), 3)

    def test_outputs(self):
        self.assert_fails(self.generate("--output", self.folder / "absent" / "a.png"), 1, "does not exist")
        self.assert_fails(self.generate("--output", self.folder), 1, "folder")
        self.assert_fails(self.generate("--output", "/dev/full"), 1, "/dev/full")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_model_folders(self):
        self.assert_fails(self.generate("--model", self.folder / "absent"), 1, "absent")
        self.assert_fails(self.generate("--model", self.folder), 1, "model_index.json")
        model = self.copy_model()
        index = json.loads((model / "model_index.json").read_text())
        (model / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionPipeline"}))
        self.assert_fails(self.generate("--model", model), 1, "StableDiffusionPipeline", "FluxPipeline")
        (model / "model_index.json").write_text(json.dumps({**index, "vae": ["diffusers", "AsymmetricAutoencoderKL"]}))
        self.assert_fails(self.generate("--model", model), 1, "AsymmetricAutoencoderKL", "AutoencoderKL")
        (model / "model_index.json").write_text("{")
        self.assert_fails(self.generate("--model", model), 1, "not valid JSON")

    def test_missing_parts(self):
        for part in ("vae", "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json",
                     "tokenizer_2/spiece.model", "scheduler/scheduler_config.json", "text_encoder/model.safetensors"):
            with self.subTest(part=part):
                model = self.copy_model()
                path = model / part
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                self.assert_fails(self.generate("--model", model), 1, part.split("/")[0])
                shutil.rmtree(model)

    def test_configs(self):
        model = self.copy_model()
        for component, changes, part in (
            ("vae", {"scaling_factor": 0}, "scaling_factor"), ("vae", {"block_out_channels": "x"}, "block_out_channels"),
            ("scheduler", {"num_train_timesteps": 0}, "num_train_timesteps"), ("scheduler", {"use_beta_sigmas": True}, "use_beta_sigmas"),
            ("transformer", {"num_layers": "two"}, "num_layers"), ("transformer", {"attention_head_dim": -64}, "attention_head_dim"),
            ("transformer", {"num_attention_heads": 10**9}, "num_attention_heads"),
            ("transformer", {"num_attention_heads": 4}, "has shape"), ("transformer", {"num_layers": 3}, "has no tensor"),
            ("transformer", {"num_layers": 1}, "is not known"), ("text_encoder_2", {"feed_forward_proj": "relu"}, "gated-gelu"),
            ("text_encoder", {"vocab_size": 100}, "vocab_size"), ("text_encoder", {"layer_norm_eps": -1}, "layer_norm_eps"),
            ("vae", {"_class_name": "AutoencoderTiny"}, "AutoencoderKL"), ("scheduler", {"shift": 1e300}, "shift"),
        ):
            with self.subTest(component=component, changes=changes):
                path = model / component / ("scheduler_config.json" if component == "scheduler" else "config.json")
                before = path.read_text()
                self.edit_config(model, component, **changes)
                self.assert_fails(self.generate("--model", model), 1, part)
                path.write_text(before)

    def test_weights(self):
        model = self.copy_model()
        path = model / "transformer" / "diffusion_pytorch_model.safetensors"
        good = path.read_bytes()
        size = struct.unpack("<Q", good[:8])[0]
        for name, bad in (("empty", b""), ("cut header", good[:100]), ("cut data", good[:-1000]), ("grown", good + b"x"),
                          ("huge header", struct.pack("<Q", 1 << 60) + good[8:]), ("garbage", b"\0" * 4096),
                          ("not JSON", good[:8] + b"x" * size + good[8 + size:])):
            with self.subTest(name=name):
                path.write_bytes(bad)
                self.assert_fails(self.generate("--model", model), 1, "diffusion_pytorch_model.safetensors")

    def test_generation_config(self):
        model = self.copy_model()
        for text, part in (('{"width": 60}', "width"), ('{"steps": 3}', "steps"), ('{"true_cfg_scale": "x"}', "true_cfg_scale"), ("[", "JSON")):
            (model / "generation_config.json").write_text(text)
            result = self.generate("--model", model)
            self.assertIn(result.returncode, (1, 2))
            self.assertIn(part, result.stderr.decode())

    def test_from_a_picture_with_a_bad_request(self):
        def picture(request):
            chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
                      (b"tEXt", b"rondo\0" + json.dumps(request).encode()),
                      (b"IDAT", zlib.compress(b"\0\0\0\0")), (b"IEND", b"")]
            return b"\x89PNG\r\n\x1a\n" + b"".join(
                struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
                for kind, data in chunks)

        path = self.folder / "bad.png"
        for bad in ({"width": 63}, {"num_inference_steps": 0}, {"dtype": "float17"}):
            path.write_bytes(picture({"prompt": "x", **bad}))
            with self.subTest(bad=bad):
                self.assert_fails(rondo("generate", "-q", "--from", path, "-o", "/dev/null"), 1, "bad.png (its metadata)")
        path.write_bytes(picture({"prompt": "x", "width": 63}))
        self.assert_fails(rondo("generate", "-q", "--from", path, "--height", 61, "-o", "/dev/null"), 2, "height")
        self.assertEqual(rondo("generate", "-q", "--from", path, "--width", 40, "--height", 40, *QUICK, "-o", "/dev/null").returncode, 0)

    def test_from_a_picture_that_is_none(self):
        path = self.folder / "a.png"
        for content in (b"", b"text", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\0" * 100):
            path.write_bytes(content)
            self.assert_fails(rondo("generate", "--from", path), 1, "a.png")
        self.assert_fails(rondo("generate", "--from", self.folder / "absent.png"), 1, "absent.png")


if __name__ == "__main__":
    unittest.main()
