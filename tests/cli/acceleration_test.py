"""Accelerations as a person calls them: each keeps the picture, says what it did and refuses what it cannot do."""

import json
import math
import os
import re
import shutil
import xml.etree.ElementTree

from support import EMOJI, QUICK, CommandTest, pixels, rondo


def compile_passes():
    """The passes that --passes and --no-pass choose among; those of the stages before stand before them."""
    stages = re.findall(r"^([a-z-]+) \((\w+)\): ", rondo("inspect", "--list-passes").stdout.decode(), re.M)
    order = ["attention", "parallelism", "quantization", "compile"]
    assert [stage for _, stage in stages] == sorted((stage for _, stage in stages), key=order.index), stages
    return [name for name, stage in stages if stage == "compile"]


class AccelerationTest(CommandTest):
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
        names = compile_passes()
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
        names = compile_passes()
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
        for name, least, smaller in (("w8a8", 40, 1.2), ("w8a16", 40, 1.2), ("w4a16", 25, 1.4),
                                     ("fp8", 35, 1.2), ("fp8-per-tensor", 35, 1.2)):
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
        stored = self.folder / "fp8"
        self.assertEqual(rondo("quantize", EMOJI, "-q", "-o", stored, "--to", "fp8").returncode, 0)
        picture, transformer = draw("stored.png", "--model", stored)
        self.assertIn("linear: fp8 x", str(transformer["kernels"]))
        self.assertGreater(self.psnr(self.folder / "fp8.png", picture), 45)
        plan = rondo("inspect", folder, "--plan", "--explain-fusion").stdout.decode()
        self.assertIn("quantize-linears: 54 nodes", plan)
        self.assert_fails(rondo("quantize", folder, "--to", "w8a8", "-o", self.folder / "x"), 1, "is quantised already")
        self.assert_fails(rondo("quantize", EMOJI, "--to", "w8a8", "-o", folder), 1, "exists; a new folder")
        self.assert_fails(rondo("quantize", EMOJI, "--to", "w2", "-o", self.folder / "x"), 2, "'w2' is given; allowed are w8a8")
        self.assert_fails(rondo("quantize", EMOJI, "--to", "w8a8", "-o", self.folder / "x", "--quantize-exclude", "*"), 2, "no layer is left")
        self.assertEqual(sorted(path.name for path in self.folder.iterdir() if path.is_dir()), ["fp8", "model"])  # nothing half done

        result = rondo("eval", "linears", "--num-inference-steps", 2, "--quantize", "w8a8", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        evaluation = json.loads(result.stdout)
        self.assertGreater(evaluation["psnr_db"], 40)
        cosines = [layer["cosine"] for layer in evaluation["layers"] if layer["quantized"]]
        self.assertEqual(len(cosines), 54)
        self.assertGreater(min(cosines), 0.999)
        self.assertLess(min(cosines), 1)
        # Attention is quantised as well where that is asked for: linears then see other inputs.
        quantised = rondo("eval", "linears", "--num-inference-steps", 2, "--quantize", "w8a8", "--json", "--kv-cache-dtype", "int8")
        self.assertEqual(quantised.returncode, 0, quantised.stderr)
        self.assertNotEqual(json.loads(quantised.stdout)["layers"], json.loads(result.stdout)["layers"])
        self.assert_fails(rondo("inspect", EMOJI, "--plan", "--kv-cache-skip-steps", "0"), 2, "kv-cache-skip-steps", "nothing is quantised")

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

    def test_memory_limit(self):
        self.assert_fails(self.generate("--memory-limit", "20MB", "-o", "/dev/null"), 1, "size: 64 x 64 needs", "within the limit of 20 MB")
        self.assertEqual(self.generate("--memory-limit", "2GB", "-o", self.folder / "a.png").returncode, 0)
        report = self.folder / "r.json"
        result = self.generate("--memory-limit", "50MB", "--width", 256, "--height", 256, "-o", self.folder / "b.png", "--report", report)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("vae tiling", " ".join(json.loads(report.read_text())["notes"]))  # what is automatic heeds it
        for value in ("x", "-1GB", "0", "1TBB", "99999999999GB"):
            self.assert_fails(self.generate("--memory-limit", value, "-o", "/dev/null"), 2, "--memory-limit")

    def test_weight_cache(self):
        cache, picture, again = (self.folder / name for name in ("cache", "a.png", "b.png"))
        self.assertEqual(self.generate("--quantize", "w8a8", "-o", picture).returncode, 0)
        files = None
        for _ in range(2):
            result = self.generate("--quantize", "w8a8", "--weight-cache", cache, "-o", again)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(pixels(again), pixels(picture))
            kept = sorted(path for path in cache.rglob("*") if path.is_file())
            self.assertTrue(kept)
            self.assertIn(files, (None, kept))  # the second run packs nothing
            files = kept
        kept[0].write_bytes(b"damaged")
        result = self.generate("--quantize", "w8a8", "--weight-cache", cache, "-o", again)
        self.assertIn(kept[0].name, result.stderr.decode())
        self.assertEqual(pixels(again), pixels(picture))
        environment = {**os.environ, "RONDO_WEIGHT_CACHE": str(cache)}
        self.assertIn(f"{cache}: {len(kept)} packed weights", rondo("cache", "list", env=environment).stdout.decode())
        self.assertIn(f"removed {len(kept)} packed", rondo("cache", "clear", "--weight-cache", cache).stdout.decode())
        self.assertEqual([path for path in cache.rglob("*") if path.is_file()], [])
        self.assert_fails(self.generate("--weight-cache", picture, "-o", "/dev/null"), 1, "weight-cache: ")
        self.assert_fails(self.generate("--weight-cache-limit", "much", "-o", "/dev/null"), 2, "--weight-cache-limit")

    def test_tiles_on_lanes(self):
        pictures = []
        for lanes in (1, 2):
            report, picture = self.folder / "r.json", self.folder / f"{lanes}.png"
            result = self.generate("--width", 128, "--height", 128, "--vae-tiling", "on", "--lanes", lanes, "--threads", 2,
                                   "--dtype", "f32", "-o", picture, "--report", report)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual("two tiles at a time" in str(json.loads(report.read_text())["notes"]), lanes == 2)
            pictures.append(pixels(picture))
        most = max(abs(a - b) for rows in zip(*pictures) for a, b in zip(*rows))
        self.assertLessEqual(most, 1)

    def test_quantised_attention(self):
        native, quantised, again = (self.folder / name for name in ("a.png", "b.png", "c.png"))
        report = self.folder / "r.json"
        self.assertEqual(self.generate("-o", native).returncode, 0)
        for dtype in ("int8", "fp8"):
            result = self.generate("--kv-cache-dtype", dtype, "-o", quantised, "--report", report)
            self.assertEqual(result.returncode, 0, result.stderr)
            told = json.loads(report.read_text())
            self.assertIn(f"attention: {dtype} rotated", str(told["notes"]))
            self.assertIn(f"flash-{dtype}", str(told["components"][2]["kernels"]))
            self.assertNotEqual(pixels(quantised), pixels(native))
            found = rondo("eval", "picture", native, quantised).stdout.decode()
            self.assertGreaterEqual(float(found.split()[1]), 30, dtype)
            # Nothing is quantised where either selector, or both together, name everything; empty ones name nothing.
            for skip in (["--kv-cache-skip-steps", "0,1"], ["--kv-cache-skip-layers", "0-2,3-7"],
                         ["--kv-cache-skip-steps", "0", "--kv-cache-skip-layers", "0-7,2-4"]):
                self.assertEqual(self.generate("--kv-cache-dtype", dtype, *skip, "-o", again).returncode, 0)
                self.assertEqual(pixels(again), pixels(native), skip)
            self.generate("--kv-cache-dtype", dtype, "--kv-cache-skip-steps=", "--kv-cache-skip-layers= , ", "-o", again)
            self.assertEqual(pixels(again), pixels(quantised))
            self.generate("--kv-cache-dtype", dtype, "--kv-cache-skip-steps=0-1,1", "--kv-cache-skip-layers=0-5,3-4", "-o", again)
            self.assertEqual(pixels(again), pixels(native))
        self.assertEqual(self.generate("--kv-cache-dtype", "int8", "--kv-cache-skip-steps", "5", "-o", again, "--report", report).returncode, 0)
        self.assertIn("kv-cache-skip-steps: 5 lies beyond the request's steps, 0 to 1", str(json.loads(report.read_text())["notes"]))
        for flag, value, part in (("--kv-cache-skip-layers", "8", "layers 0 to 7"), ("--kv-cache-skip-layers", "4-2", "'4-2'"),
                                  ("--kv-cache-skip-steps", "-1", "'-1'"), ("--kv-cache-skip-steps", "x", "'x'")):
            self.assert_fails(self.generate("--kv-cache-dtype", "int8", f"{flag}={value}", "-o", "/dev/null"), 2, flag[2:], part)
        for flag in ("--kv-cache-dtype", "--kv-cache-fallback", "--quantize-attention-rotation"):
            self.assert_fails(self.generate(flag, "fp4", "-o", "/dev/null"), 2, flag, "fp4")
        for flags in (["--kv-cache-skip-steps", "0"], ["--kv-cache-skip-layers", "0"], ["--quantize-attention-rotation", "none"],
                      ["--quantize-attention-smooth-k"]):
            self.assert_fails(self.generate(*flags, "-o", "/dev/null"), 2, flags[0][2:], "nothing is quantised")
        for dtype in ("int8", "fp8"):
            rows = json.loads(rondo("bench", "attention", "--problem", "q=1x2x128x64", "--kv-cache-dtype", dtype, "--check", "--runs", 1,
                                    "--quantize-attention-smooth-k", "--json").stdout)
            self.assertTrue(rows[0]["kernel"].startswith(f"flash-{dtype}"))
            self.assertEqual(rows[0]["failure"], "")
        for flags, kernel in ((["--kv-cache-dtype", "auto"], "flash"), (["--quantize-attention-rotation", "none"], "flash-int8")):
            rows = json.loads(rondo("bench", "attention", "--problem", "q=1x1x16x64 kv_cache=int8 rotation=1", *flags, "--runs", 1, "--json").stdout)
            self.assertEqual(rows[0]["kernel"], kernel)
            self.assertNotIn("rotation=1", rows[0]["problem"])

    def test_quantised_attention_that_is_not_possible(self):
        native, again = self.folder / "a.png", self.folder / "b.png"
        self.assertEqual(self.generate("-o", native).returncode, 0)
        environment = {**os.environ, "RONDO_DISABLE_BACKENDS": "flash-int8"}
        self.assert_fails(self.generate("--kv-cache-dtype", "int8", "-o", "/dev/null", env=environment), 1, "kv-cache-dtype: int8",
                          "flash-int8 disabled by")
        result = self.generate("--kv-cache-dtype", "int8", "--kv-cache-fallback", "native", "-o", again, env=environment)
        self.assertEqual(result.stderr.decode().count("attention runs native"), 1)
        self.assertEqual(pixels(again), pixels(native))

    def test_quantised_attention_of_a_model(self):
        """A model's own config says how its attention runs; flags say otherwise."""
        def model(stored):
            folder = self.folder / f"model{len(list(self.folder.iterdir()))}"
            shutil.copytree(EMOJI, folder, symlinks=True)
            config = folder / "transformer" / "config.json"
            text = json.loads(config.read_text())
            config.unlink()
            config.write_text(json.dumps({**text, "kv_cache_config": stored}))
            return folder
        native, flagged, again = (self.folder / name for name in ("a.png", "b.png", "c.png"))
        self.assertEqual(self.generate("-o", native).returncode, 0)
        self.generate("--kv-cache-dtype", "int8", "--kv-cache-skip-layers", "0,7", "-o", flagged)
        folder = model({"kv_cache_dtype": "int8", "kv_cache_skip_layers": [0, 7]})
        for flags, wanted in ((), flagged), (("--kv-cache-dtype", "auto"), native), (("--kv-cache-skip-layers", "0-7"), native):
            result = self.generate("--model", folder, *flags, "-o", again)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(pixels(again), pixels(wanted), flags)
        folder = model({"kv_cache_dtype": "int8", "kv_cache_skip_layers": list(range(8)) * 20, "kv_cache_skip_steps": []})
        self.assertEqual(self.generate("--model", folder, "-o", again).returncode, 0)
        self.assertEqual(pixels(again), pixels(native))
        for stored, part in (({"kv_cache_dtype": "int4"}, "'int4'"), ({"kv_cache_skip_steps": "2-1"}, "'2-1'"), ({"dtype": "fp8"}, "dtype"),
                             ("int8", "object"), ({"rotation": "fast"}, "hadamard"), ({"kv_cache_skip_layers": [-1]}, "-1"),
                             ({"kv_cache_dtype": "fp8", "kv_cache_skip_layers": "8"}, "layers 0 to 7")):
            self.assert_fails(self.generate("--model", model(stored), "-o", "/dev/null"), 1, "transformer/config.json", "kv_cache_config", part)

    def test_eval_attention(self):
        plot = self.folder / "plot.svg"
        result = rondo("eval", "attention", "--capture", "--json", "--num-inference-steps", 2, "--plot", plot)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = json.loads(result.stdout)["layers"]
        self.assertEqual([row["layer"] for row in rows[::8]], [*map(str, range(8)), "noise", "outliers", "key offset"])
        found = {(row["layer"], row["kv_cache_dtype"], row["rotation"], row["smooth_k"]): row for row in rows}
        for (layer, dtype, rotation, _), row in found.items():
            if rotation == "hadamard" and layer.isdigit():
                self.assertGreaterEqual(row["cosine"], 0.999 if dtype == "int8" else 0.998)
                self.assertLessEqual(row["relative_l2"], 0.05)
        def lost(*key):
            return 1 - found[key]["cosine"]
        # What stands out costs precision where nothing is done about it.
        self.assertGreater(lost("outliers", "fp8", "none", False), 3 * lost("outliers", "fp8", "hadamard", False))
        self.assertGreater(lost("key offset", "int8", "none", False), 5 * lost("key offset", "int8", "hadamard", False))
        self.assertGreater(lost("key offset", "fp8", "none", False), 5 * lost("key offset", "fp8", "none", True))
        drawing = xml.etree.ElementTree.parse(plot)
        self.assertEqual(len(drawing.findall("{http://www.w3.org/2000/svg}polyline")), 8)
        rows = json.loads(rondo("eval", "attention", "--json", "--kv-cache-dtype", "int8", "--quantize-attention-rotation", "none").stdout)["layers"]
        self.assertEqual([(row["layer"], row["kv_cache_dtype"], row["smooth_k"]) for row in rows[:2]],
                         [("noise", "int8", False), ("noise", "int8", True)])
        for flags, part in ((["--prompt", "x"], "--capture"), (["--kv-cache-skip-steps", "0"], "--kv-cache-skip-steps"),
                            (["--lanes", "1"], "--lanes: is read with --capture only"), (["--plot", "-"], "--plot: '-'"),
                            (["--kv-cache-dtype", "auto"], "int8 and fp8"), (["--plot", "/nowhere/a.svg"], "/nowhere")):
            result = rondo("eval", "attention", *flags)
            self.assertNotEqual(result.returncode, 0, flags)
            self.assertIn(part, result.stderr.decode())

        # A kernel that is named takes the quantised operands, or the run, whichever it can.
        for kernel in ("flash", "flash-int8"):
            result = rondo("eval", "attention", "--capture", "--num-inference-steps", 1, "--attention-backend", kernel, "--kv-cache-dtype", "int8")
            self.assertEqual(result.returncode, 0, result.stderr)

    def test_native_layers_by_cosine(self):
        for least, layers in (("0.9", "none"), ("1", "0,1,2,3,4,5,6,7")):
            result = self.generate("--kv-cache-dtype", "int8", "--kv-cache-skip-layers", f"auto:{least}", "-o", self.folder / "a.png")
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn(f"for a cosine of {least}: {layers}", result.stderr.decode())
        result = self.generate("--kv-cache-dtype", "int8", "--kv-cache-fallback", "native", "--kv-cache-skip-layers", "auto:0.9",
                               "-o", self.folder / "a.png", env={**os.environ, "RONDO_DISABLE_BACKENDS": "flash-int8"})
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertNotIn("for a cosine", result.stderr.decode())  # there is nothing to choose
        for value, part in (("auto:2", "'auto:2'"), ("auto:x", "x"), ("auto:", "--kv-cache-skip-layers")):
            self.assert_fails(self.generate("--kv-cache-dtype", "int8", "--kv-cache-skip-layers", value, "-o", "/dev/null"), 2, "--kv-cache-skip-layers", part)
        self.assert_fails(self.generate("--kv-cache-skip-layers", "auto:0.9", "-o", "/dev/null"), 2, "kv-cache-skip-layers", "nothing is quantised")
