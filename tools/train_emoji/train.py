#!/usr/bin/env python3
"""Train a small text-to-image model of the FLUX architecture on captioned pictures.

Three stages, each with its own time budget:

1. the VAE (``AutoencoderKL``, 4 x smaller per side, 8 latent channels);
2. the two text encoders (a T5 encoder and a CLIP text model), which learn to
   tell from a caption which picture it belongs to, and roughly how that looks;
3. the transformer (``FluxTransformer2DModel``) together with the text encoders,
   on latents computed once.

The result is a set of folders (tokenizer, tokenizer_2, text_encoder,
text_encoder_2, transformer, vae) with the averaged weights in float32, which
``assemble.py`` turns into a diffusers pipeline.  See README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import io
import json
import math
import random
import re
import shutil
import tarfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

SIDE = 64  # pictures are SIDE x SIDE
LATENT_CHANNELS = 8
LATENT_SIDE = SIDE // 4
TOKENS = 32  # length of every caption in tokens, padding included
T5_VOCABULARY = 2000
CLIP_VOCABULARY = 1998  # learned entries, before bytes and special tokens are added
CAPTION_SLOTS = 32  # captions prepared for each picture; a batch draws one of them

TONES = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium-light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium-dark skin tone",
    "1F3FF": "dark skin tone",
}


# --------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------


@dataclasses.dataclass
class Dataset:
    """Captioned pictures: records of the caption file, and pixels in [-1, 1]."""

    records: list[dict]
    pixels: torch.Tensor  # [n, 3, SIDE, SIDE]
    weights: np.ndarray  # how often each picture is drawn; sums to 1

    def draw(self, count: int) -> torch.Tensor:
        """Draw picture indices, with replacement, by weight."""
        return torch.from_numpy(np.random.choice(len(self.records), count, p=self.weights))


def clean(text: str) -> str:
    """Lower case, without underscores and colons, single spaces."""
    return re.sub(r"\s+", " ", re.sub(r"[_:]", " ", text)).lower().strip()


def picture_to_array(source: io.BufferedIOBase | Path) -> np.ndarray:
    """Read one picture onto white, resized to SIDE x SIDE where it is not already."""
    with Image.open(source) as opened:
        picture = opened.convert("RGBA")
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    white.alpha_composite(picture)
    return np.asarray(white.convert("RGB"), dtype=np.uint8)


def read_pictures(source: Path, names: Sequence[str]) -> np.ndarray:
    """Read the named pictures from a folder or a tar file, in the order of `names`."""
    if source.is_dir():
        return np.stack([picture_to_array(source / name) for name in names])
    with tarfile.open(source) as tar:
        members = {Path(member.name).name: member for member in tar if member.isfile()}
        return np.stack(
            [picture_to_array(io.BytesIO(tar.extractfile(members[Path(name).name]).read())) for name in names]
        )


def picture_weight(record: dict, tone_weight: float, category_weights: dict[str, float]) -> float:
    """How often a picture is drawn, relative to the others."""
    if record.get("tone"):
        return tone_weight
    return category_weights.get(record.get("category", ""), 1.0)


def load_dataset(
    pictures: Path, captions: Path, tone_weight: float, category_weights: dict[str, float]
) -> Dataset:
    """Load every picture that the caption file names.

    Each line of the caption file is a JSON object.  `file` and `name` are needed;
    `keywords`, `short_names`, `tone` and `category` are used where present.
    """
    with captions.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines if line.strip()]
    arrays = read_pictures(pictures, [record["file"] for record in records])
    pixels = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1
    weights = np.array([picture_weight(record, tone_weight, category_weights) for record in records])
    return Dataset(records, pixels, weights / weights.sum())


def tone_suffix(tone: str | None) -> str:
    """The words for a skin tone, as they end a caption ('' for none)."""
    if not tone:
        return ""
    return ", " + " and ".join(TONES.get(part, part.lower() + " skin tone") for part in tone.split("-"))


def captions_of(record: dict, slots: int = CAPTION_SLOTS) -> list[str]:
    """The captions of one picture, as many as `slots`; repeats are how one gets its weight.

    The first keyword is the Unicode short name ('red apple'), `name` the name in
    emoji-datasource ('slice of pizza'), `short_names` the names people type ('pizza').
    """
    keywords = [text for text in map(clean, record.get("keywords") or []) if text]
    name = clean(record["name"])
    title = keywords[0] if keywords else name
    aliases = [clean(text) for text in record.get("short_names") or []] or [name]

    def pick(most: int) -> str:
        return ", ".join(random.sample(keywords, min(len(keywords), random.randint(1, most))))

    chosen: list[str] = []
    for slot in range(slots):
        share = slot / slots
        if share < 0.3125:
            chosen.append(title)
        elif share < 0.5:
            chosen.append(name)
        elif share < 0.65625:
            chosen.append(aliases[slot % len(aliases)])
        elif not keywords:
            chosen.append(name)
        elif share < 0.90625:
            chosen.append(f"{random.choice((title, name))}, {pick(3)}")
        else:
            chosen.append(pick(4))
    suffix = tone_suffix(record.get("tone"))
    return [caption + suffix for caption in chosen]


# --------------------------------------------------------------------------------------
# Tokenizers
# --------------------------------------------------------------------------------------


def make_t5_tokenizer(captions: Iterable[str], folder: Path) -> None:
    """Make a SentencePiece unigram vocabulary (what T5 uses) from the captions."""
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=model,
        vocab_size=T5_VOCABULARY,
        hard_vocab_limit=False,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        eos_piece="</s>",
        unk_piece="<unk>",
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc_cf",
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())


def make_clip_tokenizer(captions: Iterable[str], folder: Path) -> None:
    """Make a byte-pair vocabulary (what CLIP uses) from the captions."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=CLIP_VOCABULARY,
        special_tokens=[],
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary = model["vocab"]
    bytes_and_special = [piece for byte in alphabet for piece in (byte, byte + "</w>")]
    for piece in [*bytes_and_special, "<|startoftext|>", "<|endoftext|>"]:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


class CaptionTokenizer:
    """Both tokenizers of the pipeline, giving TOKENS ids for a caption."""

    def __init__(self, folder: Path) -> None:
        self.t5 = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer_2" / "spiece.model"))
        clip = folder / "tokenizer"
        self.clip = CLIPTokenizer(str(clip / "vocab.json"), str(clip / "merges.txt"), model_max_length=TOKENS)

    def t5_ids(self, captions: Sequence[str]) -> torch.Tensor:
        """Ids for the T5 encoder: the pieces, end of sequence (1), padding (0)."""
        rows = []
        for pieces in self.t5.encode(list(captions)):
            ids = pieces[: TOKENS - 1] + [1]
            rows.append(ids + [0] * (TOKENS - len(ids)))
        return torch.tensor(rows)

    def clip_ids(self, captions: Sequence[str]) -> torch.Tensor:
        """Ids for the CLIP text model."""
        return self.clip(
            list(captions), padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        ).input_ids


# --------------------------------------------------------------------------------------
# Things both stages use
# --------------------------------------------------------------------------------------


class Clock:
    """A wall-clock budget. The learning rate follows it, so a stage always ends on time."""

    def __init__(self, minutes: float, deadline: float | None = None) -> None:
        self.start = time.time()
        self.end = self.start + minutes * 60 if deadline is None else deadline

    @property
    def seconds(self) -> float:
        return time.time() - self.start

    @property
    def progress(self) -> float:
        return self.seconds / max(self.end - self.start, 1e-9)


def schedule(step: int, progress: float, warmup: int, floor: float) -> float:
    """Learning-rate factor: linear warm-up by steps, then half a cosine by time."""
    return min(1.0, (step + 1) / warmup) * (0.5 * (1 + math.cos(math.pi * min(progress, 1.0))) + floor)


class Average:
    """An exponential moving average of parameters, short-memoried at first."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.values = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        keep = min(self.decay, (1 + step) / (20 + step))
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in self.parameters], 1 - keep)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the model has the averaged weights."""
        with torch.no_grad():
            kept = [parameter.detach().clone() for parameter in self.parameters]
            torch._foreach_copy_(self.parameters, self.values)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, kept)


class BatchedMuon(torch.optim.Optimizer):
    """Muon: momentum, made orthogonal with a Newton-Schulz iteration, for matrices.

    Matrices of one shape are handled together, to spend less time on dispatch.
    Updates are scaled to the size AdamW's usually have (0.2 x the learning rate per
    entry), so AdamW's learning rates carry over.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter] | Iterable[dict],
        lr: float,
        momentum: float = 0.95,
        iterations: int = 5,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "iterations": iterations})

    @staticmethod
    def orthogonalize(stack: torch.Tensor, iterations: int) -> torch.Tensor:
        """Bring all singular values of each matrix of `stack` [n, rows, columns] near 1."""
        a, b, c = 3.4445, -4.7750, 2.0315
        wide = stack.shape[1] <= stack.shape[2]
        x = (stack if wide else stack.transpose(1, 2)).bfloat16()
        x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
        for _ in range(iterations):
            gram = torch.bmm(x, x.transpose(1, 2))
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x if wide else x.transpose(1, 2)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                gradient = torch.stack([parameter.grad for parameter in parameters])
                state = self.state[parameters[0]]
                momentum = state.setdefault("momentum", torch.zeros_like(gradient))
                momentum.lerp_(gradient, 1 - group["momentum"])
                update = self.orthogonalize(gradient.lerp_(momentum, group["momentum"]), group["iterations"])
                scale = -group["lr"] * 0.2 * math.sqrt(max(shape))
                torch._foreach_add_(parameters, list((update.float() * scale).unbind()))


# --------------------------------------------------------------------------------------
# Stage 1: the VAE
# --------------------------------------------------------------------------------------


def new_vae() -> AutoencoderKL:
    """A small AutoencoderKL, not trained."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIDE,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
    )


def vae_loss(y: torch.Tensor, x: torch.Tensor, kl: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """L1 on pixels and on their gradients, L2 on a coarse copy, a little KL."""
    pixels = F.l1_loss(y, x)
    edges = F.l1_loss(y.diff(dim=-1), x.diff(dim=-1)) + F.l1_loss(y.diff(dim=-2), x.diff(dim=-2))
    coarse = F.mse_loss(F.avg_pool2d(y, 4), F.avg_pool2d(x, 4))
    return pixels + 0.7 * edges + coarse + 1e-4 * kl, pixels


def train_vae(data: Dataset, args: argparse.Namespace) -> AutoencoderKL:
    """Train the VAE for args.vae_minutes; returns it with averaged weights."""
    vae = new_vae().to(args.device, memory_format=torch.channels_last)
    parameters = list(vae.parameters())
    average = Average(parameters, 0.995)
    optimizer = torch.optim.AdamW(parameters, args.vae_lr, betas=(0.9, 0.99), weight_decay=0.0)
    clock = Clock(args.vae_minutes)
    step = 0
    while (progress := clock.progress) < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.vae_lr * schedule(step, progress, warmup=100, floor=0.02)
        x = data.pixels[data.draw(args.vae_batch_size)]
        x = x.to(args.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(args.device, torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.mean + torch.randn_like(posterior.mean) * posterior.std).sample
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss, pixels = vae_loss(y.float(), x, kl)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        average.update(step)
        if step % 20 == 0:
            print(f"vae {step} {clock.seconds:.0f}s l1 {pixels.item():.4f} kl {kl.item():.2f}", flush=True)
    torch._foreach_copy_([parameter.data for parameter in parameters], average.values)
    return vae


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pixels: torch.Tensor, device: str) -> torch.Tensor:
    """Latent means of all pictures, as the VAE gives them."""
    parts = [vae.encode(part.to(device)).latent_dist.mean for part in pixels.split(64)]
    return torch.cat(parts).float().cpu()


def pack(latents: torch.Tensor) -> torch.Tensor:
    """[n, channels, 2h, 2w] to the transformer's tokens [n, h * w, 4 * channels]."""
    n, channels, height, width = latents.shape
    latents = latents.view(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return latents.reshape(n, height // 2 * (width // 2), channels * 4)


# --------------------------------------------------------------------------------------
# Stages 2 and 3: the models
# --------------------------------------------------------------------------------------


class MatmulAttention:
    """diffusers' FluxAttnProcessor with attention written as matrix products.

    At the 96 tokens of this model that trains much faster on a CPU than
    scaled_dot_product_attention, whose backward pass is slow for short sequences.
    """

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (attn.heads, -1))

        query = attn.norm_q(heads(attn.to_q(hidden_states)))
        key = attn.norm_k(heads(attn.to_k(hidden_states)))
        value = heads(attn.to_v(hidden_states))
        if attn.added_kv_proj_dim is not None:
            text = encoder_hidden_states
            query = torch.cat([attn.norm_added_q(heads(attn.add_q_proj(text))), query], dim=1)
            key = torch.cat([attn.norm_added_k(heads(attn.add_k_proj(text))), key], dim=1)
            value = torch.cat([heads(attn.add_v_proj(text)), value], dim=1)
        query = apply_rotary_emb(query, image_rotary_emb, sequence_dim=1)
        key = apply_rotary_emb(key, image_rotary_emb, sequence_dim=1)

        query, key, value = (x.to(value.dtype).transpose(1, 2).flatten(0, 1) for x in (query, key, value))
        scores = torch.bmm(query, key.transpose(1, 2)).float() * query.shape[-1] ** -0.5
        mixed = torch.bmm(torch.softmax(scores, dim=-1).to(value.dtype), value)
        mixed = mixed.unflatten(0, (-1, attn.heads)).transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return mixed
        length = encoder_hidden_states.shape[1]
        return attn.to_out[0](mixed[:, length:]), attn.to_add_out(mixed[:, :length])


class Generator(torch.nn.Module):
    """The transformer and both text encoders, as they are trained together."""

    def __init__(self, transformer: FluxTransformer2DModel, t5: T5EncoderModel, clip: CLIPTextModel) -> None:
        super().__init__()
        self.transformer, self.t5, self.clip = transformer, t5, clip
        side = LATENT_SIDE // 2
        positions = torch.zeros(side, side, 3)
        positions[..., 1] = torch.arange(side)[:, None]
        positions[..., 2] = torch.arange(side)[None]
        self.register_buffer("image_ids", positions.view(-1, 3))
        self.register_buffer("text_ids", torch.zeros(TOKENS, 3))

    def forward(self, x: torch.Tensor, t: torch.Tensor, t5_ids: torch.Tensor, clip_ids: torch.Tensor) -> torch.Tensor:
        """The velocity (noise - picture) at noised latents `x` and times `t` in [0, 1]."""
        return self.transformer(
            hidden_states=x,
            encoder_hidden_states=self.t5(t5_ids)[0],
            pooled_projections=self.clip(clip_ids).pooler_output,
            timestep=t,
            img_ids=self.image_ids,
            txt_ids=self.text_ids,
            return_dict=False,
        )[0]

    def save(self, folder: Path) -> None:
        self.transformer.save_pretrained(folder / "transformer")
        self.t5.save_pretrained(folder / "text_encoder_2")
        self.clip.save_pretrained(folder / "text_encoder")


def new_generator(tokenizer: CaptionTokenizer) -> Generator:
    """Untrained models; what gates a block, and the output, starts at zero."""
    clip_size = len(tokenizer.clip)
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=tokenizer.t5.vocab_size(),
            d_model=192,
            d_kv=48,
            num_heads=4,
            d_ff=512,
            num_layers=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
            use_cache=False,
        )
    )
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=clip_size,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            projection_dim=128,
            bos_token_id=tokenizer.clip.bos_token_id,
            eos_token_id=tokenizer.clip.eos_token_id,
            pad_token_id=tokenizer.clip.pad_token_id,
            hidden_act="quick_gelu",
            attn_implementation="eager",
        )
    )
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=LATENT_CHANNELS * 4,
        num_layers=2,
        num_single_layers=6,
        attention_head_dim=64,
        num_attention_heads=3,
        joint_attention_dim=192,
        pooled_projection_dim=128,
        guidance_embeds=False,
        axes_dims_rope=(16, 24, 24),
    )
    for name, parameter in transformer.named_parameters():
        if ("norm" in name and "linear" in name) or name.startswith("proj_out"):
            torch.nn.init.zeros_(parameter)
    return Generator(transformer, t5, clip)


def load_generator(folder: Path) -> Generator:
    """Models from an earlier run's folder, or from an assembled pipeline."""
    return Generator(
        FluxTransformer2DModel.from_pretrained(folder / "transformer").float(),
        T5EncoderModel.from_pretrained(folder / "text_encoder_2").float(),
        CLIPTextModel.from_pretrained(folder / "text_encoder", attn_implementation="eager").float(),
    )


class Captions:
    """The captions of all pictures as ids, CAPTION_SLOTS for each picture."""

    def __init__(self, data: Dataset, tokenizer: CaptionTokenizer) -> None:
        texts = [caption for record in data.records for caption in captions_of(record)]
        unique = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        index = torch.tensor([unique[text] for text in texts])
        self.t5_ids = tokenizer.t5_ids(list(unique))[index].view(-1, CAPTION_SLOTS, TOKENS)
        self.clip_ids = tokenizer.clip_ids(list(unique))[index].view(-1, CAPTION_SLOTS, TOKENS)
        self.empty = tokenizer.t5_ids([""]), tokenizer.clip_ids([""])

    def draw(self, chosen: torch.Tensor, dropout: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """One caption for each chosen picture, replaced by the empty one with probability `dropout`."""
        slot = torch.randint(CAPTION_SLOTS, chosen.shape)
        dropped = (torch.rand(chosen.shape) < dropout)[:, None]
        return (
            torch.where(dropped, self.empty[0], self.t5_ids[chosen, slot]),
            torch.where(dropped, self.empty[1], self.clip_ids[chosen, slot]),
        )


# --------------------------------------------------------------------------------------
# Stage 2: the text encoders alone
# --------------------------------------------------------------------------------------


class TextHead(torch.nn.Module):
    """What the text stage asks of a caption's features: which picture, and its 8 x 8 thumbnail.

    The thumbnail keeps features of pictures that look alike close together, which is
    what the transformer needs most while there is little but noise to see.
    """

    def __init__(self, width: int, thumbnails: torch.Tensor) -> None:
        super().__init__()
        self.which = torch.nn.Linear(width, len(thumbnails))
        self.look = torch.nn.Linear(width, thumbnails.shape[1])
        self.thumbnails = thumbnails

    def forward(self, features: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and the share of pictures named rightly."""
        logits = self.which(features).float()
        look = F.mse_loss(self.look(features).float(), self.thumbnails[chosen])
        loss = F.cross_entropy(logits, chosen, label_smoothing=0.05) + 4 * look
        return loss, (logits.argmax(-1) == chosen).float().mean()


def train_text(data: Dataset, captions: Captions, generator: Generator, args: argparse.Namespace) -> None:
    """Train both text encoders for args.text_minutes to tell the pictures apart.

    Learning what words mean through the transformer alone takes very long: features
    of "red heart" and "green heart" stay nearly the same.
    """
    device = args.device
    thumbnails = F.avg_pool2d(data.pixels, SIDE // 8).flatten(1)
    thumbnails = ((thumbnails - thumbnails.mean(0)) / thumbnails.std()).to(device)
    t5, clip = generator.t5.to(device), generator.clip.to(device)
    heads = torch.nn.ModuleList([TextHead(width, thumbnails) for width in (t5.config.d_model, clip.config.hidden_size)])
    heads.to(device)
    parameters = [*t5.parameters(), *clip.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, args.text_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    clock = Clock(args.text_minutes)
    step = 0
    while (progress := clock.progress) < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.text_lr * schedule(step, progress, warmup=50, floor=0.01)
        chosen = data.draw(args.text_batch_size)
        t5_ids, clip_ids = (ids.to(device) for ids in captions.draw(chosen))
        with torch.autocast(device, torch.bfloat16):
            words = (t5_ids != 0)[..., None]
            mean = (t5(t5_ids)[0] * words).sum(1) / words.sum(1)
            results = [
                head(features, chosen.to(device)) for head, features in zip(heads, (mean, clip(clip_ids).pooler_output))
            ]
        loss = results[0][0] + results[1][0]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 20 == 0:
            shares = ", ".join(f"{name} {share:.2f}" for name, (_, share) in zip(("t5", "clip"), results))
            print(f"text {step} {clock.seconds:.0f}s loss {loss.item():.3f} right: {shares}", flush=True)


@torch.no_grad()
def fold_change(linear: torch.nn.Linear, new: torch.Tensor, old: torch.Tensor) -> float:
    """Change `linear` so that on features `new` it gives about what it gave on `old`.

    Fits old = new @ matrix + offset with ridge regression; returns the share of the
    variance of the old features that the fit leaves unexplained.
    """
    new, old = new.double().flatten(0, -2), old.double().flatten(0, -2)
    x, y = new - new.mean(0), old - old.mean(0)
    gram = x.T @ x
    ridge = 1e-4 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    matrix = torch.linalg.solve(gram + ridge, x.T @ y)
    offset = old.mean(0) - new.mean(0) @ matrix
    weight = linear.weight.double()
    linear.bias.copy_(linear.bias.double() + weight @ offset)
    linear.weight.copy_(weight @ matrix.T)
    return ((y - x @ matrix).square().sum() / y.square().sum()).item()


@torch.no_grad()
def fit_transformer(generator: Generator, old_t5: T5EncoderModel, old_clip: CLIPTextModel, captions: Captions) -> None:
    """Fit a trained transformer's two inputs for text to text encoders that the text stage has changed.

    Without this the transformer has to start again, nearly; with it, it goes on from
    what it drew before, and learns to use the richer features from there.
    """
    device = generator.image_ids.device
    t5_ids, clip_ids = captions.draw(torch.randint(len(captions.t5_ids), (2048,)), dropout=0.05)
    t5_ids, clip_ids = t5_ids.to(device), clip_ids.to(device)
    transformer = generator.transformer
    tokens = fold_change(transformer.context_embedder, generator.t5(t5_ids)[0], old_t5(t5_ids)[0])
    pooled = fold_change(
        transformer.time_text_embed.text_embedder.linear_1,
        generator.clip(clip_ids).pooler_output,
        old_clip(clip_ids).pooler_output,
    )
    print(f"fitted the transformer to the text encoders; unexplained: t5 {tokens:.3f}, clip {pooled:.3f}", flush=True)


# --------------------------------------------------------------------------------------
# Stage 3: the transformer, with its text encoders
# --------------------------------------------------------------------------------------


def make_optimizers(generator: Generator, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks and encoder layers, AdamW for everything else.

    Each has two groups of parameters: the transformer's, and the text encoders' at a lower rate.
    """
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = defaultdict(list)
    for name, parameter in generator.named_parameters():
        inside = "blocks." in name or ".layers." in name or ".block." in name
        hidden = inside and parameter.ndim == 2 and "relative_attention_bias" not in name
        groups[hidden, name.startswith("transformer.")].append(parameter)

    def with_rates(hidden: bool, rate: float) -> list[dict]:
        rates = {True: rate, False: rate * args.text_rate}
        return [{"params": groups[hidden, part], "lr": rates[part], "peak": rates[part]} for part in (True, False)]

    return [
        torch.optim.AdamW(with_rates(False, args.adamw_lr), betas=(0.9, 0.99), weight_decay=0.01, fused=True),
        BatchedMuon(with_rates(True, args.muon_lr), args.muon_lr),
    ]


def draw_times(count: int, mean: float) -> torch.Tensor:
    """Times in (0, 1): logit-normal, and a seventh or so uniform to cover both ends."""
    times = torch.sigmoid(torch.randn(count) + mean)
    return torch.where(torch.rand(count) < 0.15, torch.rand(count), times)


class Check:
    """A loss on fixed pictures, captions, noise and times, comparable between runs."""

    def __init__(self, data: Dataset, latents: torch.Tensor, tokenizer: CaptionTokenizer, count: int = 256) -> None:
        plain = [i for i, record in enumerate(data.records) if not record.get("tone")]
        count = min(count, len(plain))
        chosen = [plain[i * len(plain) // count] for i in range(count)]
        captions = [clean((data.records[i].get("keywords") or [data.records[i]["name"]])[0]) for i in chosen]
        fixed = torch.Generator().manual_seed(1)
        self.x = latents[chosen]
        self.noise = torch.randn(self.x.shape, generator=fixed)
        self.times = (torch.arange(count) + 0.5) / count
        self.times = self.times[torch.randperm(count, generator=fixed)]
        self.t5_ids, self.clip_ids = tokenizer.t5_ids(captions), tokenizer.clip_ids(captions)

    @torch.no_grad()
    def loss(self, generator: Generator, device: str) -> float:
        total = 0.0
        t = self.times[:, None, None]
        noised, target = (1 - t) * self.x + t * self.noise, self.noise - self.x
        with torch.compiler.set_stance("force_eager"), torch.autocast(device, torch.bfloat16):
            for part in torch.arange(len(self.x)).split(64):
                inputs = (noised[part], self.times[part], self.t5_ids[part], self.clip_ids[part])
                velocity = generator(*(tensor.to(device) for tensor in inputs)).float().cpu()
                total += F.mse_loss(velocity, target[part], reduction="sum").item()
        return total / target.numel()


def train_generator(
    data: Dataset,
    latents: torch.Tensor,
    captions: Captions,
    generator: Generator,
    check: Check,
    args: argparse.Namespace,
) -> None:
    """Train transformer and text encoders with flow matching; writes averaged weights to args.out."""
    device = args.device
    generator.to(device)
    generator.transformer.set_attn_processor(MatmulAttention())
    if args.compile:
        generator.transformer.compile_repeated_blocks(dynamic=False)
    parameters = list(generator.parameters())
    average = Average(parameters, args.ema)
    optimizers = make_optimizers(generator, args)
    print(f"check loss at the start {check.loss(generator, device):.4f}", flush=True)

    clock = Clock(args.minutes, args.deadline)
    step, saved, losses = 0, time.time(), torch.zeros(100)
    while (progress := clock.progress) < 1:
        factor = schedule(step, progress, args.warmup, floor=0.005)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor

        chosen = data.draw(args.batch_size)
        x = latents[chosen]
        noise = torch.randn_like(x)
        times = draw_times(args.batch_size, args.time_mean)
        t = times[:, None, None]
        inputs = ((1 - t) * x + t * noise, times, *captions.draw(chosen, args.caption_dropout))
        with torch.autocast(device, torch.bfloat16):
            velocity = generator(*(tensor.to(device) for tensor in inputs))
        loss = F.mse_loss(velocity.float(), (noise - x).to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses[step % 100] = loss.item()
        step += 1
        average.update(step)

        if step % 100 == 0 or step in (1, 10, 20, 50):
            mean = losses[: min(step, 100)].mean().item()
            print(f"step {step} {clock.seconds:.0f}s loss {mean:.4f} rate x{factor:.3f}", flush=True)
        if time.time() - saved > args.save_minutes * 60:
            with average.applied():
                generator.save(args.out)
                print(f"step {step} saved; check loss {check.loss(generator, device):.4f}", flush=True)
            saved = time.time()
    with average.applied():
        generator.save(args.out)
        print(f"done: {step} steps, check loss {check.loss(generator, device):.4f}", flush=True)


# --------------------------------------------------------------------------------------
# Command line
# --------------------------------------------------------------------------------------


def category_weight(text: str) -> tuple[str, float]:
    name, _, weight = text.rpartition("=")
    return name, float(weight)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, required=True, help="folder or tar file of pictures")
    parser.add_argument("--captions", type=Path, required=True, help="JSON lines: file, name, and more; see README.md")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--resume", type=Path, help="folder (an earlier --out, or a pipeline) to go on from")
    parser.add_argument("--vae-minutes", type=float, default=20, help="VAE stage; 0 keeps the VAE of --resume")
    parser.add_argument("--text-minutes", type=float, default=5, help="text-encoder stage; 0 skips it")
    parser.add_argument("--minutes", type=float, default=180, help="transformer stage; 0 skips it")
    parser.add_argument("--deadline", type=float, help="end of the transformer stage (Unix time) instead of --minutes")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--muon-lr", type=float, default=2e-3, help="peak rate, matrices inside the blocks")
    parser.add_argument("--adamw-lr", type=float, default=1.2e-3, help="peak rate, everything else")
    parser.add_argument("--text-rate", type=float, default=0.3, help="the text encoders' share of both rates")
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the average that is saved")
    parser.add_argument("--caption-dropout", type=float, default=0.1, help="share of empty captions, for guidance")
    parser.add_argument("--time-mean", type=float, default=0.2, help="above 0: more of the noisy times")
    parser.add_argument("--tone-weight", type=float, default=0.06, help="weight of a picture with a skin tone")
    parser.add_argument(
        "--category-weight",
        type=category_weight,
        action="append",
        default=[],
        metavar="CATEGORY=WEIGHT",
        help="weight of the pictures of one category; can be given again",
    )
    parser.add_argument("--vae-batch-size", type=int, default=32)
    parser.add_argument("--vae-lr", type=float, default=1e-3)
    parser.add_argument("--text-batch-size", type=int, default=256)
    parser.add_argument("--text-lr", type=float, default=2e-3)
    parser.add_argument("--save-minutes", type=float, default=10, help="time between checkpoints")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="use torch.compile")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as torch chooses")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def copy_files(source: Path, target: Path) -> None:
    """Copy the files of a folder, without their permissions."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)


def prepare_tokenizers(data: Dataset, args: argparse.Namespace) -> CaptionTokenizer:
    """Take the tokenizers over from --resume, or make them from the captions."""
    if args.resume:
        if args.resume.resolve() != args.out.resolve():
            for name in ("tokenizer", "tokenizer_2"):
                copy_files(args.resume / name, args.out / name)
    else:
        captions = [caption for record in data.records for caption in captions_of(record)]
        make_t5_tokenizer(captions, args.out / "tokenizer_2")
        make_clip_tokenizer(captions, args.out / "tokenizer")
    return CaptionTokenizer(args.out)


def prepare_vae(data: Dataset, args: argparse.Namespace) -> tuple[AutoencoderKL, torch.Tensor]:
    """Train a VAE or take it over from --resume; returns it with the latents of all pictures."""
    if args.vae_minutes > 0:
        vae = train_vae(data, args)
    elif args.resume:
        vae = AutoencoderKL.from_pretrained(args.resume / "vae").float().to(args.device)
    else:
        raise SystemExit("without --resume there is no VAE yet: --vae-minutes must be above 0")
    vae.eval().requires_grad_(False)
    latents = encode_pictures(vae, data.pixels, args.device)
    if args.vae_minutes > 0:  # Make the latents of untoned pictures zero-mean, with variance 1.
        plain = latents[[not record.get("tone") for record in data.records]]
        vae.register_to_config(shift_factor=plain.mean().item(), scaling_factor=1 / plain.std().item())
    vae.save_pretrained(args.out / "vae")
    return vae, pack((latents - vae.config.shift_factor) * vae.config.scaling_factor)


def main() -> None:
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)

    data = load_dataset(args.pictures, args.captions, args.tone_weight, dict(args.category_weight))
    tokenizer = prepare_tokenizers(data, args)
    _, latents = prepare_vae(data, args)
    print(f"{len(data.records)} pictures, latents {tuple(latents.shape)}", flush=True)
    # A new VAE means new latents, to which an old transformer would have to adapt.
    generator = load_generator(args.resume) if args.resume else new_generator(tokenizer)
    sizes = [f"{name} {sum(p.numel() for p in part.parameters()):,}" for name, part in generator.named_children()]
    print("parameters: " + ", ".join(sizes), flush=True)
    captions = Captions(data, tokenizer)
    if args.text_minutes > 0:
        old_t5, old_clip = copy.deepcopy(generator.t5), copy.deepcopy(generator.clip)
        train_text(data, captions, generator, args)
        if args.resume:
            generator.to(args.device)
            fit_transformer(generator, old_t5.to(args.device), old_clip.to(args.device), captions)
        generator.save(args.out)
    if args.minutes > 0 or args.deadline:
        train_generator(data, latents, captions, generator, Check(data, latents, tokenizer), args)


if __name__ == "__main__":
    main()
