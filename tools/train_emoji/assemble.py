#!/usr/bin/env python3
"""Assemble train.py's output into a diffusers FluxPipeline folder (bfloat16), and draw a contact sheet."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from PIL import Image
from transformers import CLIPTextModel, T5EncoderModel

SIDE = 64  # pictures are SIDE x SIDE
TOKENS = 32  # longest caption

MODELS = {
    "transformer": FluxTransformer2DModel,
    "text_encoder_2": T5EncoderModel,
    "text_encoder": CLIPTextModel,
    "vae": AutoencoderKL,
}

MODEL_INDEX = {
    "_class_name": "FluxPipeline",
    "_diffusers_version": diffusers.__version__,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

TOKENIZER_CONFIGS = {
    "tokenizer": {
        "model_max_length": TOKENS,
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    },
    "tokenizer_2": {
        "model_max_length": TOKENS,
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": 0,
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    },
}

PROMPTS = (
    "red apple",
    "cat face",
    "grinning face",
    "pizza",
    "red heart",
    "dog face",
    "sunflower",
    "rocket",
    "rainbow",
    "smiling face with sunglasses",
    "japan flag",
    "birthday cake",
    "automobile",
    "penguin",
    "house with garden",
    "fire",
    "thumbs up, dark skin tone",
    "butterfly",
    "green apple",
    "soccer ball",
    "crying face",
    "ghost",
    "guitar",
    "green heart",
)


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def assemble(trained: Path, out: Path, steps: int, true_cfg_scale: float) -> None:
    """Write the pipeline folder: weights in bfloat16, tokenizers, scheduler and settings."""
    out.mkdir(parents=True)
    for name, model in MODELS.items():
        model.from_pretrained(trained / name).to(torch.bfloat16).save_pretrained(out / name)
        config = json.loads((out / name / "config.json").read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # a path of the machine it was trained on
        write_json(out / name / "config.json", config)
    for name, config in TOKENIZER_CONFIGS.items():
        (out / name).mkdir()
        for path in (trained / name).iterdir():
            shutil.copyfile(path, out / name / path.name)
        if not (out / name / "tokenizer_config.json").exists():
            write_json(out / name / "tokenizer_config.json", config)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False)
    scheduler.save_pretrained(out / "scheduler")
    write_json(out / "model_index.json", MODEL_INDEX)
    write_json(
        out / "generation_config.json",
        {
            "width": SIDE,
            "height": SIDE,
            "num_inference_steps": steps,
            "guidance_scale": 3.5,  # the model has no guidance embedding and does not use it
            "true_cfg_scale": true_cfg_scale,
            "negative_prompt": "",
        },
    )


def draw(pipeline: FluxPipeline, prompts: list[str], seeds: list[int], steps: int, scale: float) -> list[Image.Image]:
    """One picture a prompt, each from its own seed."""
    return pipeline(
        prompt=prompts,
        negative_prompt=[""] * len(prompts) if scale > 1 else None,
        true_cfg_scale=scale,
        height=SIDE,
        width=SIDE,
        num_inference_steps=steps,
        guidance_scale=0.0,
        max_sequence_length=TOKENS,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
    ).images


def contact_sheet(pictures: list[Image.Image], columns: int, zoom: int) -> Image.Image:
    """Pictures side by side in rows of `columns`, enlarged without smoothing."""
    side = SIDE * zoom
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side), "white")
    for i, picture in enumerate(pictures):
        enlarged = picture.resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (i % columns * side, i // columns * side))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("trained", type=Path, help="the folder train.py wrote")
    parser.add_argument("out", type=Path, help="the pipeline folder to write; must not exist, unless --sheet-only")
    parser.add_argument("--sheet", type=Path, help="contact sheet to draw (.png)")
    parser.add_argument("--sheet-only", action="store_true", help="draw from OUT as it is, assemble nothing")
    parser.add_argument("--steps", type=int, default=20, help="steps, for the sheet and as the default setting")
    parser.add_argument("--true-cfg-scale", type=float, default=3.0, help="the default setting")
    parser.add_argument("--sheet-scales", type=float, nargs="+", help="scales to draw; --true-cfg-scale if not given")
    parser.add_argument("--prompts", type=Path, help="prompts for the sheet, one a line")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first picture; the next has the next")
    parser.add_argument("--columns", type=int, default=12)
    parser.add_argument("--zoom", type=int, default=2)
    args = parser.parse_args()

    if not args.sheet_only:
        assemble(args.trained, args.out, args.steps, args.true_cfg_scale)
    if args.sheet:
        prompts = args.prompts.read_text(encoding="utf-8").splitlines() if args.prompts else list(PROMPTS)
        seeds = [args.seed + i for i in range(len(prompts))]
        pipeline = FluxPipeline.from_pretrained(args.out, torch_dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        pictures: list[Image.Image] = []
        for scale in args.sheet_scales or [args.true_cfg_scale]:
            row = draw(pipeline, prompts, seeds, args.steps, scale)
            blank = -len(row) % args.columns  # start every scale on a new row
            pictures += row + [Image.new("RGB", (SIDE, SIDE), "white")] * blank
        contact_sheet(pictures, args.columns, args.zoom).save(args.sheet)


if __name__ == "__main__":
    main()
