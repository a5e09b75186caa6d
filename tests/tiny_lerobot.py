"""Tiny random LeRobot checkpoints, built offline and saved as `lerobot-train` saves them."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from robot_value.types import ActionPart, Camera, Spec

PIXELS, STATE_DIM, ACTION_DIM = 64, 3, 2
SENTENCES = ("lift the red cube", "stack it on the blue one")


def spec(cameras: tuple[str, ...] = (), environment: int = 0) -> Spec:
    """Limits so wide that nothing is clipped: equality is of what the model says."""
    names = tuple(f"joint_{i}" for i in range(STATE_DIM)) + tuple(f"cube_{i}" for i in range(environment))
    return Spec(
        parts=(ActionPart("arm", 0, 2, "joint", "rad", (-50.0, -50.0), (50.0, 50.0)),),
        state_names=names,
        state_units=("rad",) * len(names),
        dt=0.05,
        cameras=tuple(Camera(name, PIXELS, PIXELS) for name in cameras),
    )


def features(cameras: tuple[str, ...] = (), environment: int = 0, state: int = STATE_DIM) -> dict[str, Any]:
    """input_features and output_features of a configuration."""
    from lerobot.configs.types import FeatureType, PolicyFeature

    inputs = {"observation.state": PolicyFeature(FeatureType.STATE, (state,))}
    for name in cameras:
        inputs[f"observation.images.{name}"] = PolicyFeature(FeatureType.VISUAL, (3, PIXELS, PIXELS))
    if environment:
        inputs["observation.environment_state"] = PolicyFeature(FeatureType.ENV, (environment,))
    return {"input_features": inputs, "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))}}


def statistics(config: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Random, nothing 0 or 1: a normalisation that is left out or done twice shows."""
    rng = np.random.default_rng(3)
    found = {}
    for key, feature in {**config.input_features, **config.output_features}.items():
        shape = (3, 1, 1) if len(feature.shape) == 3 else feature.shape
        low, width = rng.uniform(-2.0, -1.0, shape), rng.uniform(1.5, 3.0, shape)
        numbers = {"min": low, "max": low + width, "mean": low + width / 3, "std": width / 5}
        numbers |= {"q01": low + 0.1, "q99": low + width - 0.1}
        found[key] = {name: torch.tensor(value, dtype=torch.float32) for name, value in numbers.items()}
        found[key]["count"] = torch.tensor([100])
    return found


def save(config: Any, folder: Path) -> Path:
    """A random policy of this configuration with its processors."""
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    torch.manual_seed(0)
    policy = get_policy_class(config.type)(config)
    with torch.no_grad():
        for parameter in policy.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.3)  # gates that begin closed would hide what lies behind them
            elif config.type == "smolvla" and parameter.dim() > 1:
                parameter.mul_(3)  # so would attention that begins even
    policy.save_pretrained(folder)
    for pipeline in make_pre_post_processors(config, dataset_stats=statistics(config)):
        pipeline.save_pretrained(folder)
    return folder


def diffusion(folder: Path, cameras: tuple[str, ...] = (), state: int = STATE_DIM, **changes: Any) -> Path:
    """Without cameras it sees two numbers of the environment: 0.1M parameters; with them a ResNet."""
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

    given = {"n_obs_steps": 2, "horizon": 8, "n_action_steps": 5, "down_dims": (16, 32), "n_groups": 4}
    given |= {"noise_scheduler_type": "DDIM", "num_inference_steps": 4, "pretrained_backbone_weights": None}
    given |= {"diffusion_step_embed_dim": 16, "spatial_softmax_num_keypoints": 4, "clip_sample_range": 3.0}
    given |= {"use_separate_rgb_encoder_per_camera": False}
    seen = features(cameras, 0 if cameras else 2, state)
    return save(DiffusionConfig(**{**seen, **given, "device": "cpu", "push_to_hub": False, **changes}), folder)


def tokenizer(folder: Path) -> Any:
    """A byte-level BPE trained on two sentences, saved where AutoTokenizer finds it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokens = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"}
    tokens |= {"global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"}
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", *tokens.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>", extra_special_tokens=tokens
    )
    fast.save_pretrained(folder)
    return fast


TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": PIXELS, "patch_size": 16}


def vlm(folder: Path, text: dict[str, int] = TEXT, vision: dict[str, int] = VISION, scale_factor: int = 2) -> Path:
    """A SmolVLM's configuration and processor: what SmolVLA's constructor asks the hub for."""
    from transformers import SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    fast = tokenizer(folder)
    text = {"model_type": "llama", "vocab_size": len(fast), **text}
    config = SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=scale_factor, image_token_id=fast.image_token_id
    )
    config.save_pretrained(folder)
    tokens = (vision["image_size"] // vision["patch_size"] // scale_factor) ** 2
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(), fast, video_processor=SmolVLMVideoProcessor(), image_seq_len=tokens
    )
    processor.save_pretrained(folder)
    return folder


def smolvla(folder: Path, cameras: tuple[str, ...] = ("top",), **changes: Any) -> Path:
    """With its VLM's folder inside: `adopt` it with backbone="vlm"."""
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

    given = {"vlm_model_name": str(vlm(folder / "vlm")), "load_vlm_weights": False, "num_vlm_layers": 2}
    given |= {"chunk_size": 5, "n_action_steps": 5, "max_state_dim": 6, "max_action_dim": 6, "num_steps": 4}
    given |= {"resize_imgs_with_padding": (PIXELS, PIXELS), "tokenizer_max_length": 16}
    return save(
        SmolVLAConfig(**{**features(cameras), **given, "device": "cpu", "push_to_hub": False, **changes}), folder
    )


def clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    fast = tokenizer(folder)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"vocab_size": len(fast), "max_position_embeddings": 32, "eos_token_id": fast.eos_token_id}
    vision = small | {"image_size": PIXELS, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    return folder


def multi_task_dit(folder: Path, **changes: Any) -> Path:
    """With CLIP's folder inside: `adopt` it with backbone="tiny_clip"."""
    from lerobot.policies.multi_task_dit.configuration_multi_task_dit import MultiTaskDiTConfig

    where = str(clip(folder / "tiny_clip"))
    given = {"vision_encoder_name": where, "text_encoder_name": where, "image_crop_shape": None}
    given |= {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "timestep_embed_dim": 16, "tokenizer_max_length": 16}
    given |= {"n_obs_steps": 2, "horizon": 8, "n_action_steps": 5, "num_integration_steps": 3, "clip_sample_range": 3.0}
    given |= {"noise_scheduler_type": "DDIM", "num_inference_steps": 4}
    seen = features(("top",))
    return save(MultiTaskDiTConfig(**{**seen, **given, "device": "cpu", "push_to_hub": False, **changes}), folder)


@contextlib.contextmanager
def small_pi(module: str) -> Iterator[None]:
    """pi0 and pi0.5 have their sizes in the code: inside this block, "modeling_pi0" builds one of 0.1M parameters."""
    modeling = importlib.import_module(f"lerobot.policies.{module.removeprefix('modeling_')}.{module}")
    gemma = modeling.GemmaConfig(width=32, depth=2, mlp_dim=64, num_heads=8, num_kv_heads=1, head_dim=8)

    def paligemma(config: Any, plain: Any = modeling.PaliGemmaForConditionalGenerationWithPiGemma) -> Any:
        small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        for name, value in (small | {"patch_size": 16, "projection_dim": 32}).items():
            setattr(config.vision_config, name, value)
        config.projection_dim = config.hidden_size = 32
        config.text_config.vocab_size, config.image_token_id = 300, 299
        return plain(config)

    def expert(config: Any, plain: Any = modeling.PiGemmaForCausalLM) -> Any:
        config.vocab_size = 300
        return plain(config)

    with (
        mock.patch.object(modeling, "get_gemma_config", lambda variant: gemma),
        mock.patch.object(modeling, "PaliGemmaForConditionalGenerationWithPiGemma", paligemma),
        mock.patch.object(modeling, "PiGemmaForCausalLM", expert),
    ):
        yield


def pi(folder: Path, family: str = "pi0") -> Path:
    """pi0 or pi05 with a tokenizer's folder inside: `adopt` it inside small_pi, with backbone="tokenizer"."""
    from lerobot.policies.factory import make_policy_config
    from lerobot.processor import tokenizer_processor

    fast = tokenizer(folder / "tokenizer")
    given = {"chunk_size": 5, "n_action_steps": 5, "max_state_dim": 6, "max_action_dim": 6, "num_inference_steps": 4}
    given |= {"image_resolution": (PIXELS, PIXELS), "dtype": "float32", "tokenizer_max_length": 48}
    config = make_policy_config(family, **features(("top",)), **given, device="cpu", push_to_hub=False)
    hub = mock.Mock(from_pretrained=lambda name: fast)  # the processor names a tokenizer on the hub
    with mock.patch.object(tokenizer_processor, "AutoTokenizer", hub):
        return save(config, folder)
