"""The command as a person calls it: good calls, bad calls, and what they leave behind."""

import json
import os
import shutil
import signal
import struct
import subprocess
import time
import unittest
import zlib

from support import EMOJI, QUICK, RONDO, CommandTest, pixels, rondo


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

    def test_jpeg_and_webp_carry_the_request(self):
        wanted = self.folder / "a.png"
        flags = ("--prompt", "red heart \u2014 \u00bd", "--width", 128, "--height", 128)
        self.assertEqual(self.generate(*flags, "-o", wanted).returncode, 0)
        for name, head in (("a.jpg", b"\xff\xd8\xff"), ("a.JPEG", b"\xff\xd8\xff"), ("a.webp", b"RIFF")):
            with self.subTest(name=name):
                picture, again = self.folder / name, self.folder / f"again-{name}"
                self.assertEqual(self.generate(*flags, "-o", picture).returncode, 0)
                self.assertTrue(picture.read_bytes().startswith(head))
                near = rondo("eval", "picture", wanted, picture).stdout.decode()
                self.assertGreater(float(near.split()[1]), 30)
                for output in (again, self.folder / "again.png"):
                    result = rondo("generate", "-q", "--from", picture, "-o", output)
                    self.assertEqual(result.returncode, 0, result.stderr)
                self.assertEqual(again.read_bytes(), picture.read_bytes())
                self.assertEqual((self.folder / "again.png").read_bytes(), wanted.read_bytes())
                self.generate(*flags, "-o", again, "--output-quality", 20)
                self.assertLess(len(again.read_bytes()), len(picture.read_bytes()))
        # Letters beyond ASCII take more bytes there than on the command line.
        self.assert_fails(self.generate("--prompt", "\u0436" * 7000, "-o", self.folder / "b.jpg"), 2, "JPEG keeps up to")
        long = ("--prompt", "x" * 65000)
        self.assert_fails(self.generate(*long, "-o", self.folder / "b.jpg"), 2, "JPEG keeps up to", "write .png or .webp")
        self.assertEqual(self.generate(*long, "-o", self.folder / "b.webp").returncode, 0)
        self.assertEqual(rondo("generate", "-q", "--from", self.folder / "b.webp", "-o", "/dev/null").returncode, 0)
        self.assert_fails(self.generate("--width", 16384, "-o", self.folder / "b.webp"), 2, "WebP allows sides of up to 16383")
        sheet = self.folder / "sheet.webp"
        self.assertEqual(rondo("contact-sheet", self.folder / "a.jpg", wanted, "-o", sheet).returncode, 0)

    def test_first_contact(self):
        alone = rondo()
        self.assertEqual(alone.returncode, 0)
        self.assertEqual(alone.stdout.decode().count("\n  rondo "), 3)
        self.assertIn("Usage: rondo", alone.stdout.decode())
        one, other = self.folder / "one.png", self.folder / "other.png"
        self.assertEqual(rondo("generate", "-q", "cat face", "--steps", 2, "--size", "64x48", "--seed", 1, "--true_cfg_scale=2",
                               "--negative_prompt", "a_b", "-o", one).returncode, 0)
        self.assertEqual(rondo("generate", "-q", "--prompt", "cat face", "--num-inference-steps", 2, "--width", 64, "--height", 48,
                               "--seed", 1, "--true-cfg-scale", 2, "--negative-prompt", "a_b", "-o", other).returncode, 0)
        self.assertEqual(one.read_bytes(), other.read_bytes())

    def test_what_a_config_file_says_gives_way(self):
        config, one, other = self.folder / "c.yaml", self.folder / "one.png", self.folder / "other.png"
        config.write_text("prompt: a dog\nwidth: 128\nheight: 128\noutput-quality: 50\n")
        call = ("generate", "-q", "cat face", "--steps", 1, "--seed", 1, "--true-cfg-scale", 1, "--size", "64x48")
        result = rondo(*call, "--config", config, "-o", one)
        self.assertEqual(result.returncode, 0, result.stderr)
        rondo(*call, "-o", other)
        self.assertEqual(one.read_bytes(), other.read_bytes())
        config.write_text("size: 128x128\n")
        self.assertEqual(rondo(*call[:-2], "--width", 64, "--height", 48, "--config", config, "-o", one).returncode, 0)
        self.assertEqual(one.read_bytes(), other.read_bytes())

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
        self.assertRegex(text, r"graph: \d+ nodes \(\d+ before passes\), \d+ segments, [\d.]+ [MG]FLOP a run")
        self.assertNotRegex(text, r"e\+\d")
        self.assertIn("attention", rondo("inspect", EMOJI, "--graph", "transformer").stdout.decode())
        self.assertIn("dead-nodes", rondo("inspect", "--list-passes").stdout.decode())
        self.assertIn("tensors", rondo("inspect", EMOJI / "vae" / "diffusion_pytorch_model.safetensors").stdout.decode())

    def test_the_bundled_model_says_nothing_of_the_machine_that_trained_it(self):
        for path in EMOJI.rglob("*"):
            if path.is_file():
                for part in (b"/tmp/", b"/home/", b"/root/"):
                    self.assertNotIn(part, path.read_bytes(), path)

    def test_bench_step_json(self):
        result = rondo("bench", "step", "--preset", "emoji", "--layers", "1,1", "--width", 64, "--height", 64,
                       "--text-tokens", 32, "--dtype", "f32", "--runs", 2, "--json")
        row = json.loads(result.stdout)
        for key in ("schema_version", "preset", "dtype", "threads", "tokens", "ms", "ms_linear", "ms_attention", "ms_other", "gflops"):
            self.assertIn(key, row)
        self.assertEqual(row["tokens"], 48)
        self.assertGreater(row["gbps_memory"], 0)
        linear = next(o for o in row["operators"] if o["operator"].startswith("linear "))
        self.assertAlmostEqual(linear["ms"], row["ms_linear"])
        self.assertGreater(linear["gbps"], 0)

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
            (["--max-sequence-length", "0"], "1 to 512"), (["--max-sequence-length", "513"], "1 to 512"),
            (["--num-images-per-prompt", "0"], "num_images_per_prompt"), (["--threads", "0"], "--threads"),
            (["--threads", "x"], "--threads"), (["--dtype", "float17"], "--dtype"), (["--dtype", "int8"], "dtype"),
            (["--no-pass", "nonsense"], "dead-nodes"), (["--passes", "nonsense"], "dead-nodes"),
            (["--quantize", "int3"], "quantize: 'int3' is given; allowed are w8a8"), (["--quantize-rule", "x"], "GLOB=FORMAT"),
            (["--quantize-rule", "x=w1"], "'w1'"), (["--quantize-group", "7"], "quantize-group: 7"),
            (["--quantize-rotation", "dct"], "hadamard and none"), (["--quantize-skip-steps", "3-1"], "'3-1' is given"),
            (["--output", "a.gif"], ".png, .jpg and .webp"), (["--output-quality", "5"], "for .jpg and .webp only"),
            (["--output", "a.jpg", "--output-quality", "101"], "1 to 100"), (["--size", "64"], "--size: '64'"),
            (["--size", "64x"], "--size: ''"), (["--size", "64x64", "--width", "64"], "--size: --width or --height"),
            (["--no-such-flag"], "generate: --no-such-flag is no flag (see rondo generate --help)"),
            (["--stesp", "5"], "--stesp is no flag; did you mean --steps?"),
            (["--number_inference_steps=5"], "did you mean --num-inference-steps?"),
            (["--sequence", "5"], "did you mean --max-sequence-length?"), (["a cat"], "--prompt: 'a cat' is given too"),
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
        self.assert_fails(rondo("nonsense"), 2, "nonsense is no command (see rondo --help)")
        self.assert_fails(rondo("genrate", "x"), 2, "genrate is no command; did you mean generate?")
        self.assert_fails(rondo("bench"), 2, "bench: a command is missing; allowed are step, instances, attention")
        self.assert_fails(rondo("bench", "setp"), 2, "bench: setp is no command; did you mean step?")
        self.assert_fails(rondo("generate", "x", "--", "y", "--model", "m"), 2, "--model stands behind --, where nothing is a flag")
        self.assert_fails(rondo("generate", "a", "cat"), 2, "'a' and 'cat' stand without a flag; allowed is one text, in quotes")
        hub = rondo("generate", "-p", "x", "--model", "black-forest-labs/FLUX.1-schnell")
        self.assert_fails(hub, 1, "is a name on a hub", "hf download black-forest-labs/FLUX.1-schnell --local-dir DIR")
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
        for name in ("", f"{self.folder}/", "a.bmp"):
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
        for content in (b"", b"text", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\0" * 100, b"\xff\xd8\xff" + b"\0" * 99,
                        b"RIFF\xff\0\0\0WEBP" + b"\0" * 99):
            path.write_bytes(content)
            self.assert_fails(rondo("generate", "--from", path), 1, "a.png")
        self.assert_fails(rondo("generate", "--from", self.folder / "absent.png"), 1, "absent.png")


if __name__ == "__main__":
    unittest.main()
