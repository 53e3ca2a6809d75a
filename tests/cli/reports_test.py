"""Situations that users of such programs have reported: odd folders, limits and environments, each as it should end."""

import json
import os
import resource
import shutil
import signal
import struct
import unittest

from support import CommandTest, pixels, rondo

STEPS = ["--prompt", "red heart", "--seed", 1, "--num-inference-steps", 3, "--dtype", "float32"]


def read_tensors(path):
    """name: (dtype, shape, bytes) of a safetensors file."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], content[8 + size:][slice(*t["data_offsets"])]) for name, t in header.items()}


def write_tensors(path, tensors):
    header, end = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def to_floats(dtype, data):
    if dtype == "BF16":
        data = b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2))
    return struct.unpack(f"<{len(data) // 4}f", data)


class ReportsTest(CommandTest):
    def draw(self, *flags, model=None, cfg=1, **more):
        """The picture of a run, as rows, and what it said."""
        path = self.folder / "drawn.png"
        path.unlink(missing_ok=True)
        where = [] if model is None else ["--model", model]
        result = rondo("generate", "-q", *STEPS, *where, "--true-cfg-scale", cfg, "-o", path, *flags, **more)
        self.assertEqual(result.returncode, 0, result.stderr)
        return pixels(path), result.stderr.decode()

    def levels(self, one, other):
        return max(abs(a - b) for x, y in zip(one, other) for a, b in zip(x, y))

    def test_openmp_gives_a_smaller_team(self):
        for quantize, allowed in ((), 1), (("--quantize", "w8a8"), 8):
            alone, _ = self.draw("--threads", 2, *quantize)
            for limit, threads in (1, 2), (2, 4), (3, 8):
                drawn, said = self.draw("--threads", threads, *quantize, env={**os.environ, "OMP_THREAD_LIMIT": str(limit)})
                self.assertLessEqual(self.levels(drawn, alone), allowed)
                self.assertIn(f"OpenMP gives {limit} of the {threads} threads", said)

    def test_openmp_threads_are_heeded(self):
        for env, threads in ({"OMP_NUM_THREADS": "3"}, 3), ({"OMP_NUM_THREADS": "3", "RONDO_THREADS": "1"}, 1):
            report = self.folder / "run.json"
            plain = {name: value for name, value in os.environ.items() if name not in ("RONDO_THREADS", "OMP_NUM_THREADS")}
            self.draw("--report", report, env={**plain, **env})
            self.assertEqual(json.loads(report.read_text())["threads"], threads)

    def test_an_index_wins_over_a_single_file(self):
        wanted, _ = self.draw()
        model = self.copy_model()
        single = model / "transformer" / "diffusion_pytorch_model.safetensors"
        shutil.copy(single, model / "transformer" / "part.safetensors")
        names = read_tensors(single)
        (model / "transformer" / f"{single.name}.index.json").write_text(
            json.dumps({"weight_map": {name: "part.safetensors" for name in names}}))
        write_tensors(single, {name: (dtype, shape, bytes(len(data))) for name, (dtype, shape, data) in names.items()})
        drawn, said = self.draw(model=model)
        self.assertEqual(drawn, wanted)
        self.assertIn(f"{single}: is not read", said)

    def test_cfg_parallel_is_a_request_s_affair(self):
        if shutil.which("mpirun") is None:
            self.skipTest("needs mpirun")
        model = self.copy_model()
        (model / "generation_config.json").unlink()
        flags = ["--model", model, "--negative-prompt", "blue", "--true-cfg-scale", 3]
        env = {**os.environ, "RONDO_THREADS": "1"}
        alone, other = self.folder / "alone.png", self.folder / "ranks.png"
        self.assertEqual(rondo("generate", "-q", *STEPS, *flags, "-o", alone, env=env).returncode, 0)
        ranks = ("launch", "-n", 2, "generate", "-q", *STEPS, "--cfg-parallel", "-o", other)
        result = rondo(*ranks, *flags, env=env)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertLessEqual(self.levels(pixels(alone), pixels(other)), 1)
        for one_branch in (["--negative-prompt", "blue"], ["--true-cfg-scale", 3]):
            result = rondo(*ranks, "--model", model, *one_branch, env=env)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn(b"cfg-parallel: this request has one branch", result.stderr)

    def test_an_added_token_has_its_row(self):
        model = self.copy_model()
        vocabulary = json.loads((model / "tokenizer" / "vocab.json").read_text())
        path = model / "text_encoder" / "model.safetensors"
        tensors = read_tensors(path)
        name = next(name for name in tensors if name.endswith("token_embedding.weight"))
        dtype, (rows, width), data = tensors[name]
        size, red = len(data) // rows, vocabulary["red</w>"]
        tensors[name] = (dtype, [rows + 1, width], data + data[red * size:(red + 1) * size])
        (model / "tokenizer" / "added_tokens.json").write_text(json.dumps({"<cat-toy>": len(vocabulary)}))
        self.assert_fails(self.generate("--model", model), 1, f"tokenizer: has ids up to {len(vocabulary)}")
        write_tensors(path, tensors)
        self.edit_config(model, "text_encoder", vocab_size=rows + 1)
        wanted, _ = self.draw("--prompt", "a red heart", "--prompt-2", "x", model=model)
        drawn, _ = self.draw("--prompt", "a <cat-toy> heart", "--prompt-2", "x", model=model)
        self.assertEqual(drawn, wanted)

    def test_not_a_number_is_told_and_leaves_no_picture(self):
        nan = {"BF16": b"\xc0\x7f", "F16": b"\x00\x7e", "F32": b"\x00\x00\xc0\x7f"}
        for component, tensor, part in (
            ("vae", "decoder.conv_out.bias", "decode: the picture is not finite; the weights of vae"),
            ("text_encoder_2", "encoder.final_layer_norm.weight", "encode prompt: the embeddings are not finite; the weights of text_encoder_2"),
            ("transformer", "proj_out.bias", "denoise: the latents are not finite"),
        ):
            with self.subTest(component=component):
                model = self.copy_model()
                path = next((model / component).glob("*.safetensors"))
                tensors = read_tensors(path)
                dtype, shape, data = tensors[tensor]
                tensors[tensor] = (dtype, shape, nan[dtype] + data[len(nan[dtype]):])
                write_tensors(path, tensors)
                picture = self.folder / "nan.png"
                self.assert_fails(self.generate("--model", model, "-o", picture), 1, part)
                self.assertFalse(picture.exists())
                shutil.rmtree(model)

    def test_sequences_longer_than_the_tokenizer_s(self):
        wanted, _ = self.draw("--max-sequence-length", 40)
        model = self.copy_model()
        path = model / "tokenizer_2" / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 16}))
        drawn, _ = self.draw("--max-sequence-length", 40, model=model)
        self.assertEqual(drawn, wanted)
        (model / "generation_config.json").unlink()
        small = ("--width", 64, "--height", 64)
        drawn, said = self.draw(*small, model=model)
        self.assertIn("max_sequence_length: 16 is the tokenizer's model_max_length; diffusers takes 512", said)
        self.assertEqual(drawn, self.draw(*small, "--max-sequence-length", 16, model=model)[0])

    def test_guidance_needs_a_negative_prompt(self):
        model = self.copy_model()
        (model / "generation_config.json").unlink()
        size = ("--width", 64, "--height", 64, "--max-sequence-length", 32)
        one, _ = self.draw(*size, model=model)
        for flags in (), ("--negative-prompt-2", "blue"):
            drawn, said = self.draw(*size, *flags, model=model, cfg=3)
            self.assertEqual(drawn, one)
            self.assertIn("true_cfg_scale: 3 is not read: no negative_prompt is given", said)
        # A picture that had no guidance gets none when it is drawn again with a scale.
        shutil.copy(self.folder / "drawn.png", self.folder / "first.png")
        drawn, said = self.draw("--from", self.folder / "first.png", cfg=3, model=model)
        self.assertEqual(drawn, one)
        empty, said = self.draw(*size, "--negative-prompt=", model=model, cfg=3)
        self.assertGreater(self.levels(empty, one), 1)
        self.assertNotIn("true_cfg_scale", said)
        self.assertEqual(empty, self.draw(cfg=3)[0])  # as the bundled model's own defaults have it

    def test_numbers_that_json_has_no_word_for(self):
        wanted, _ = self.draw()
        model = self.copy_model()
        path = model / "scheduler" / "scheduler_config.json"
        plain = path.read_text().rstrip().rstrip("}").rstrip()
        path.write_text(plain + ', "sigma_data": Infinity, "note": [NaN, -Infinity]}')
        self.assertEqual(self.draw(model=model)[0], wanted)
        path.write_text(plain.replace('"shift":', '"was":') + ', "shift": Infinity}')
        self.assert_fails(self.generate("--model", model), 1, "'shift' is Infinity; allowed is a number")

    def test_float64_weights(self):
        wanted, _ = self.draw()
        model = self.copy_model()
        path = model / "vae" / "diffusion_pytorch_model.safetensors"
        wide = {}
        for name, (dtype, shape, data) in read_tensors(path).items():
            values = to_floats(dtype, data)
            wide[name] = ("F64", shape, struct.pack(f"<{len(values)}d", *values))
        write_tensors(path, wide)
        self.assertEqual(self.draw(model=model)[0], wanted)
        wide["decoder.conv_out.bias"] = ("F8_E5M2", [3], b"\0\0\0")
        write_tensors(path, wide)
        self.assert_fails(self.generate("--model", model), 1, "tensor 'decoder.conv_out.bias' has dtype F8_E5M2; allowed are")

    def test_a_full_disk_is_the_destination_s(self):
        def small():
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 21, 1 << 21))

        target = self.folder / "quantised"
        result = rondo("quantize", self.copy_model(), "--to", "w4a16", "--output", target, preexec_fn=small)
        self.assert_fails(result, 1, f"{target}/", "cannot be written: File too large")
        self.assertEqual([path.name for path in self.folder.iterdir()], ["model"])

    def test_a_git_lfs_pointer(self):
        model = self.copy_model()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a' * 16}\nsize 4711\n"
        for part in "transformer/diffusion_pytorch_model.safetensors", "tokenizer_2/spiece.model", "vae/config.json":
            with self.subTest(part=part):
                before = (model / part).read_bytes()
                (model / part).write_text(pointer)
                self.assert_fails(self.generate("--model", model), 1, part, "is a Git LFS pointer", "4711 bytes are missing; run git lfs pull")
                (model / part).write_bytes(before)

    def test_two_tables_that_differ(self):
        model = self.copy_model()
        path = model / "text_encoder_2" / "model.safetensors"
        tensors = read_tensors(path)
        name = next(name for name in ("shared.weight", "encoder.embed_tokens.weight") if name in tensors)
        table = tensors.pop(name)
        stale = (table[0], table[1], bytes(len(table[2])))
        wanted, _ = self.draw()
        write_tensors(path, {**tensors, "shared.weight": stale, "encoder.embed_tokens.weight": table})
        self.assertEqual(self.draw(model=model)[0], wanted)


if __name__ == "__main__":
    unittest.main()
