"""Makes the golden outputs that the tests compare Rondo with, from diffusers and transformers.

    python -m venv venv && venv/bin/pip install -r tools/golden/requirements.txt
    venv/bin/python tools/golden/make_golden.py [--only NAME ...]

Everything goes to tests/golden/data: small random pipelines, and what the reference implementations compute from them
in float32. Names for --only: tokenizers, noise, scheduler, tiny, published, emoji. `emoji` has to be made again whenever
the bundled model changes.
"""

import argparse
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "golden" / "data"
EMOJI = ROOT / "models" / "emoji"


def hostile_prompts() -> list[str]:
    words = ["apple", "moon", "Straße", "naïve", "42", "rock'n'roll", "don't", "北京", "🚀"]
    return [
        "", " ", "   ", "\t", "\n", "a", "A", "red apple", "Grinning Face", "  leading", "trailing  ", "two  spaces",
        "tabs\tand\nnewlines\r\n", "UPPER lower MiXeD", "it's we're they'll I'd you've I'm can't", "'s 't 're", "''''",
        "don’t “quote” …", "a,b;c:d!e?f", "!!!", "...", "---", "a-b_c", "100", "3.14159", "1,000,000", "x2y3z4",
        "e\u0301clair", "\u00e9clair", "\u0130stanbul", "STRASSE straße ẞ", "Ω ω ΟΔΟΣ", "ﬁne ﬂour", "①②③ ½ ¼ ⅷ",
        "日本語のプロンプト", "中文提示词", "한국어 프롬프트", "مرحبا بالعالم", "שלום עולם", "हिन्दी में", "ภาษาไทย", "Привет, мир",
        "🚀", "🚀🌕", "👩‍👩‍👧‍👦", "👍🏽", "🇯🇵", "❤️", "a🚀b", "smile 😀 face", "\u200bzero\u200bwidth", "soft\u00adhyphen",
        "nbsp\u00a0here", "em\u2003space", "ideographic\u3000space", "line\u2028separator", "\u0000nul".replace("\u0000", "\ufffd"),
        "<|startoftext|>", "<|endoftext|>", "a<|endoftext|>b", "<|ENDOFTEXT|>", "x<|EndOfText|>!", "!<|StartOfText|>?",
        "</s>", "a</s>b", "<pad><unk>", "<extra_id_0> hole <extra_id_5>", "</w>", "##ing", "▁meta▁space", "a▁b",
        "\\n \\t \\", "<html>&amp;</html>", "{\"json\": [1, 2]}", "SELECT * FROM t; --", "C:\\path\\file", "/usr/bin/env",
        "http://example.org/?q=a+b&c=%20", "user@example.org", "#hashtag @mention", "$5.00 €6 £7 ¥8", "2 + 2 = 4 ≠ 5",
        "a" * 300, "ab" * 200, " ".join(words * 5), " ".join(["word"] * 600), "z" * 1000 + " end", "é" * 100, "🚀" * 50,
        "mixed 日本 and русский with 123 numbers, emoji 🎉 and punctuation!?", "a\u0300\u0301\u0302\u0303 stacked",
        "\ufeffbom", "\u202ertl override", "ǅ ǈ titlecase", "ʰ modifier letters ˢ", "ͅ", "𝕄𝕒𝕥𝕙 𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𐐀 deseret",
        # Letters apart from their marks: T5 normalises graphemes of less than 6 bytes otherwise than longer ones.
        "cre\u0300me bru\u0302le\u0301e", "Vie\u0323\u0302t Nam", "\ufb01\u0301 \uff21\u030a", "\u1112\u1161\u11ab\u1100\u1173\u11af",
        "x\u0301 q\u0323 1\u20e3", "\u0301 alone", "\u03b1\u0313\u0301\u0345",
    ]


def make_tokenizers() -> None:
    """Ids at a short and a long length, for the bundled model's tokenizers."""
    clip = CLIPTokenizer.from_pretrained(EMOJI / "tokenizer")
    t5 = AutoTokenizer.from_pretrained(EMOJI / "tokenizer_2")
    rows = []
    for prompt in hostile_prompts():
        row = {"prompt": prompt}
        for name, tokenizer, length in (("clip_32", clip, 32), ("clip_77", clip, 77), ("t5_32", t5, 32), ("t5_512", t5, 512)):
            ids = tokenizer([prompt], padding="max_length", max_length=length, truncation=True).input_ids[0]
            padding = ids[-1] if len(ids) > 1 and ids[-1] == ids[-2] else None
            while padding is not None and len(ids) > 2 and ids[-1] == padding and ids[-2] == padding:
                ids = ids[:-1]  # padding is stored once: "the last id repeats up to the length"
            row[name] = ids
        rows.append(row)
    lines = ",\n".join(json.dumps(row, ensure_ascii=True) for row in rows)
    (DATA / "tokenizers.json").write_text('{"rows": [\n' + lines + "\n]}\n")


def make_noise() -> None:
    tensors = {}
    for seed in (0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**40 + 12345, 2**63, 2**64 - 1):
        for count in (1, 2, 5, 15, 16, 17, 31, 32, 40, 513, 2048):
            generator = torch.Generator("cpu").manual_seed(seed)
            tensors[f"{seed}/{count}"] = torch.randn(count, generator=generator)
    save_file(tensors, DATA / "noise.safetensors")


SCHEDULER_CONFIGS = [
    {},
    {"shift": 3.0},
    {"shift": 0.5, "num_train_timesteps": 500},
    {"use_dynamic_shifting": True},
    {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    {"use_dynamic_shifting": True, "base_shift": 0.3, "max_shift": 2.0, "base_image_seq_len": 100, "max_image_seq_len": 900},
    {"use_dynamic_shifting": True, "shift_terminal": 0.02},
    {"shift_terminal": 0.1, "shift": 2.0},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True, "shift": 3.0},
    {"invert_sigmas": True},
]


def make_scheduler() -> None:
    rows = []
    for config in SCHEDULER_CONFIGS:
        for steps, tokens in ((2, 64), (7, 256), (28, 4096), (50, 1024)):
            scheduler = FlowMatchEulerDiscreteScheduler(**config)
            c = scheduler.config
            mu = calculate_shift(tokens, c.base_image_seq_len, c.max_image_seq_len, c.base_shift, c.max_shift)
            timesteps, _ = retrieve_timesteps(scheduler, steps, "cpu", sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
            rows.append({"config": config, "steps": steps, "tokens": tokens, "timesteps": timesteps.tolist(),
                         "sigmas": scheduler.sigmas.tolist()})
    (DATA / "scheduler.json").write_text('{"rows": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]}\n")


def randomize(module: torch.nn.Module, seed: int, dtype: torch.dtype) -> torch.nn.Module:
    """Weights of a size that keeps activations in range; rounded to `dtype`, so that files and references agree."""
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                noise = noise / math.sqrt(parameter[0].numel())
            elif name.endswith("weight"):
                noise = 1 + 0.2 * noise
            else:
                noise = 0.1 * noise
            parameter.copy_(noise.to(dtype).float())
    return module.eval()


def link_tokenizers(folder: Path) -> None:
    """The bundled model's tokenizers, by symbolic link, as a Hugging Face cache would have it."""
    for name in ("tokenizer", "tokenizer_2"):
        (folder / name).mkdir()
        for file in sorted((EMOJI / name).iterdir()):
            (folder / name / file.name).symlink_to(os.path.relpath(file, folder / name))


def write_index(folder: Path) -> None:
    index = {"_class_name": "FluxPipeline", "_diffusers_version": "0.42.1",
             "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
             "text_encoder": ["transformers", "CLIPTextModel"], "text_encoder_2": ["transformers", "T5EncoderModel"],
             "tokenizer": ["transformers", "CLIPTokenizer"], "tokenizer_2": ["transformers", "T5TokenizerFast"],
             "transformer": ["diffusers", "FluxTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")


def text_encoders(clip_width: int, t5_width: int, act: str, eos: int, seed: int, dtype: torch.dtype):
    clip = CLIPTextModel(CLIPTextConfig(
        vocab_size=2205, hidden_size=clip_width, intermediate_size=2 * clip_width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=32, projection_dim=clip_width, hidden_act=act,
        bos_token_id=2203, eos_token_id=eos, pad_token_id=2204))
    t5 = T5EncoderModel(T5Config(vocab_size=2000, d_model=t5_width, d_kv=12, num_heads=3, d_ff=2 * t5_width, num_layers=2,
                                 feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False))
    return randomize(clip, seed, dtype), randomize(t5, seed + 1, dtype)


def tiny_pipeline(folder: Path) -> None:
    """float32, guidance embedding, head dim 24, a VAE with quantisation convolutions, static shift."""
    dtype = torch.float32
    clip, t5 = text_encoders(24, 36, "gelu", 2204, 10, dtype)
    transformer = randomize(FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=24, num_attention_heads=2,
        joint_attention_dim=36, pooled_projection_dim=24, guidance_embeds=True, axes_dims_rope=(4, 8, 12)), 12, dtype)
    vae = randomize(AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 24), layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=16,
        scaling_factor=0.36, shift_factor=0.11), 13, dtype)
    FluxPipeline(FlowMatchEulerDiscreteScheduler(shift=2.0), vae, clip, None, t5, None, transformer)  # checks the classes
    clip.save_pretrained(folder / "text_encoder")
    t5.save_pretrained(folder / "text_encoder_2")
    transformer.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=2.0).save_pretrained(folder / "scheduler")


def published_pipeline(folder: Path) -> None:
    """The layout of published folders: bf16 and f16 shards, prefixed CLIP keys with position_ids and a projection, the
    T5 table under both names, torch_dtype, no axes_dims_rope (head dim 128), eos 2, dynamic shifting."""
    clip, t5 = text_encoders(32, 24, "quick_gelu", 2, 20, torch.bfloat16)
    transformer = randomize(FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=128, num_attention_heads=1,
        joint_attention_dim=24, pooled_projection_dim=32, guidance_embeds=False), 22, torch.bfloat16)
    vae = randomize(AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16), layers_per_block=2, latent_channels=4, norm_num_groups=4, sample_size=32,
        scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False), 23, torch.float16)
    clip.bfloat16().save_pretrained(folder / "text_encoder")
    t5.bfloat16().save_pretrained(folder / "text_encoder_2")
    transformer.bfloat16().save_pretrained(folder / "transformer", max_shard_size="700KB")
    vae.half().save_pretrained(folder / "vae")
    for model in (clip, t5, transformer, vae):
        model.float()
    FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0).save_pretrained(folder / "scheduler")

    file = folder / "text_encoder" / "model.safetensors"
    tensors = {k if k.startswith("text_model.") else "text_model." + k: v for k, v in load_file(file).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(32).unsqueeze(0)
    tensors["text_projection.weight"] = torch.zeros(4, 32, dtype=torch.bfloat16)
    save_file(tensors, file, metadata={"format": "pt"})
    file = folder / "text_encoder_2" / "model.safetensors"
    tensors = load_file(file)
    table = tensors.get("shared.weight", tensors.get("encoder.embed_tokens.weight"))
    tensors["shared.weight"] = table.clone()
    tensors["encoder.embed_tokens.weight"] = table.clone()
    save_file(tensors, file, metadata={"format": "pt"})
    for name, drop in (("transformer", "axes_dims_rope"), ("transformer", "patch_size"), ("vae", "mid_block_add_attention")):
        path = folder / name / "config.json"
        config = json.loads(path.read_text())
        config.pop(drop)
        path.write_text(json.dumps(config, indent=1) + "\n")
    for name in ("text_encoder", "text_encoder_2"):
        path = folder / name / "config.json"
        config = json.loads(path.read_text())
        config["torch_dtype"] = config.pop("dtype")
        path.write_text(json.dumps(config, indent=1) + "\n")


def load_pipeline(folder: Path) -> FluxPipeline:
    pipe = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for model in (pipe.text_encoder, pipe.text_encoder_2, pipe.transformer, pipe.vae):
        model.float().eval()
    return pipe


@torch.no_grad()
def golden_parts(pipe: FluxPipeline) -> dict[str, torch.Tensor]:
    """Each model on its own input, channels last where Rondo has them so."""
    generator = torch.Generator("cpu").manual_seed(1234)
    random = lambda *shape: torch.randn(*shape, generator=generator)
    out: dict[str, torch.Tensor] = {}

    ids = pipe.tokenizer(["red apple, 2 rockets"], padding="max_length", max_length=32, truncation=True,
                         return_tensors="pt").input_ids
    result = pipe.text_encoder(ids)
    out |= {"clip.input_ids": ids.int(), "clip.last_hidden_state": result.last_hidden_state, "clip.pooler_output": result.pooler_output}
    ids = pipe.tokenizer_2(["a grinning cat on the moon"], padding="max_length", max_length=19, truncation=True,
                           return_tensors="pt").input_ids
    out |= {"t5.input_ids": ids.int(), "t5.last_hidden_state": pipe.text_encoder_2(ids)[0]}

    config = pipe.transformer.config
    rows, columns, text, batch = 3, 5, 7, 2
    image_ids = torch.zeros(rows, columns, 3)
    image_ids[..., 1] = torch.arange(rows)[:, None]
    image_ids[..., 2] = torch.arange(columns)[None]
    inputs = {"hidden_states": random(batch, rows * columns, config.in_channels),
              "encoder_hidden_states": random(batch, text, config.joint_attention_dim),
              "pooled_projections": random(batch, config.pooled_projection_dim),
              "timestep": torch.tensor([0.9, 0.31])}
    if config.guidance_embeds:
        inputs["guidance"] = torch.tensor([3.5, 1.0])
    out["transformer.sample"] = pipe.transformer(**inputs, img_ids=image_ids.view(-1, 3), txt_ids=torch.zeros(text, 3),
                                                 return_dict=False)[0]
    for name, value in inputs.items():
        out[f"transformer.{name}"] = value * 1000 if name in ("timestep", "guidance") else value

    latents = random(1, pipe.vae.config.latent_channels, 6, 10)
    out["vae.latents"] = latents.permute(0, 2, 3, 1)
    out["vae.decoded"] = pipe.vae.decode(latents, return_dict=False)[0].permute(0, 2, 3, 1)
    scale = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    sample = random(1, 3, 5 * scale, 3 * scale)
    out["vae.sample"] = sample.permute(0, 2, 3, 1)
    out["vae.moments"] = pipe.vae.encode(sample).latent_dist.parameters.permute(0, 2, 3, 1)
    return {name: value.contiguous() for name, value in out.items()}


def golden_pictures(pipe: FluxPipeline, cases: list[dict]) -> tuple[list[dict], dict[str, torch.Tensor]]:
    pictures = {}
    for i, case in enumerate(cases):
        seed = case["seed"]
        call = {k: v for k, v in case.items() if k != "seed"}
        image = pipe(**call, generator=torch.Generator("cpu").manual_seed(seed), output_type="np").images[0]
        pictures[f"picture.{i}"] = torch.from_numpy((image * 255).round().astype(np.uint8)).contiguous()
    return cases, pictures


def write_golden(name: str, folder: Path, cases: list[dict]) -> None:
    pipe = load_pipeline(folder)
    tensors = golden_parts(pipe)
    cases, pictures = golden_pictures(pipe, cases)
    save_file(tensors | pictures, DATA / f"{name}.safetensors")
    (DATA / f"{name}.json").write_text(json.dumps({"cases": cases}, indent=1) + "\n")


def make_random_pipeline(name: str, fill, cases: list[dict]) -> None:
    folder = DATA / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fill(folder)
    link_tokenizers(folder)
    write_index(folder)
    write_golden(name, folder, cases)


def make_tiny() -> None:
    make_random_pipeline("tiny", tiny_pipeline, [
        {"prompt": "red apple", "width": 16, "height": 24, "num_inference_steps": 4, "guidance_scale": 3.5, "seed": 7,
         "max_sequence_length": 16},
        {"prompt": "🚀 naïve ÉCLAIR, 日本", "prompt_2": "something else", "width": 40, "height": 88, "num_inference_steps": 3,
         "guidance_scale": 1.25, "seed": 2**40 + 3, "max_sequence_length": 21, "true_cfg_scale": 2.5, "negative_prompt": "blurry"},
    ])


def make_published() -> None:
    make_random_pipeline("published", published_pipeline, [
        {"prompt": "cat face", "width": 32, "height": 32, "num_inference_steps": 5, "seed": 3, "max_sequence_length": 32},
        {"prompt": "", "width": 64, "height": 24, "num_inference_steps": 2, "seed": 2**64 - 1, "max_sequence_length": 1,
         "true_cfg_scale": 4.0, "negative_prompt": ""},
    ])


def make_emoji() -> None:
    write_golden("emoji", EMOJI, [
        {"prompt": "grinning face", "width": 64, "height": 64, "num_inference_steps": 20, "seed": 2, "max_sequence_length": 32,
         "true_cfg_scale": 3.0, "negative_prompt": ""},
        {"prompt": "cat face", "width": 40, "height": 88, "num_inference_steps": 8, "seed": 5, "max_sequence_length": 32},
    ])


MAKERS = {"tokenizers": make_tokenizers, "noise": make_noise, "scheduler": make_scheduler, "tiny": make_tiny,
          "published": make_published, "emoji": make_emoji}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(MAKERS), default=list(MAKERS))
    arguments = parser.parse_args()
    DATA.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        print(name)
        MAKERS[name]()


if __name__ == "__main__":
    main()
