"""The published U-Net and autoencoder, written out for inference. In: diffusers' nets, filled. Out: the same functions, faster.

What differs from diffusers' forward passes, none of it in what is computed but for rounding:
- channels last all through, so that a 1x1 convolution and attention's matrices are one multiplication without a copy;
- timestep 0 is a constant, so its embedding is a part of each residual block's first bias;
- queries, keys and values are one multiplication, and so are the keys and values of the voice;
- nearest upsampling and the 3x3 convolution behind it are one transposed 4x4 convolution: 16 taps for each 4 pixels instead of 36;
- on a CPU weights are kept in the order that oneDNN's kernels read: eager torch reorders 1.7 GB of the U-Net at every call.

Weights are shared with the nets they come from, where they need no other order. Knows nothing of crops, voices or files.
"""

from collections.abc import Iterable
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

LAST = torch.channels_last


class Conv(nn.Module):
    """A convolution in one layout; where `add` is given it is added to the answer, by the same kernel on a CPU."""

    def __init__(self, conv: nn.Conv2d, shift: Tensor | None = None) -> None:
        """shift: (C,) for the bias."""
        super().__init__()
        bias = torch.zeros_like(conv.weight[:, 0, 0, 0]) if conv.bias is None else conv.bias
        self.weight = _frozen(conv.weight.to(memory_format=LAST))
        self.bias = _frozen(bias if shift is None else (bias.float() + shift).to(bias.dtype))
        self.stride, self.padding = list(conv.stride), [int(side) for side in conv.padding]
        self._packed: Tensor | None = None

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        if _packs(x):
            return self._on_cpu(x, add)
        y = functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return y if add is None else y + add

    def _on_cpu(self, x: Tensor, add: Tensor | None) -> Tensor:
        ops = torch.ops.mkldnn
        same = ([1, 1], 1)  # dilation, groups
        if self._packed is None:  # for the first size it meets; another one may be reordered by the kernel
            self._packed = ops._reorder_convolution_weight(self.weight, self.padding, self.stride, *same, list(x.shape))
        given = (self._packed, self.bias, self.padding, self.stride, *same)
        if add is None:
            plain: Tensor = ops._convolution_pointwise(x, *given, "none", [], "")
            return plain
        summed: Tensor = ops._convolution_pointwise.binary(x, add, *given, "add", 1.0, None, [], None)
        return summed


class Upsample(nn.Module):
    """Nearest, twice the size, and a 3x3 convolution: even rows see w0 of the row before and w1 + w2 of their own, odd ones w0 + w1 and w2."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        spread = torch.tensor([[0, 0, 1.0], [0, 1, 1], [1, 1, 0], [1, 0, 0]], device=conv.weight.device)  # (4, 3) taps from taps
        summed = torch.einsum("pi,qj,ocij->copq", spread, spread, conv.weight.float())
        self.weight = _frozen(summed.to(conv.weight.dtype).contiguous(memory_format=LAST))
        self.bias = _frozen(torch.zeros_like(conv.weight[:, 0, 0, 0]) if conv.bias is None else conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


class SmallUpsample(nn.Module):
    """The same as it is written: where pictures are small and weights large, the time goes to reading weights, and 16 taps are more."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = Conv(conv)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


class Linear(nn.Module):
    """One matrix, or several of the same input under each other."""

    def __init__(self, *layers: nn.Linear | nn.Conv2d) -> None:
        """Convolutions: 1x1."""
        super().__init__()
        self.weight = _frozen(torch.cat([layer.weight.flatten(1) for layer in layers]))
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self.bias = _frozen(torch.cat(biases)) if biases else None
        self._packed: Tensor | None = None

    def forward(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        if x.dtype == torch.float32 or not _packs(x):  # fp32 goes to MKL, which packs within the multiplication
            y = functional.linear(x, self.weight, self.bias)
            return y if add is None else y + add
        if add is None:
            plain: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._pack(x), self.bias, "none", [], "")
            return plain
        return self._with(x, add, "add")

    def gelu(self, x: Tensor) -> Tensor:
        """Of the answer."""
        if x.dtype == torch.float32 or not _packs(x):
            return functional.gelu(self(x))
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._pack(x), self.bias, "gelu", [], "none")
        return y

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The answer times `other`."""
        return self(x) * other if x.dtype == torch.float32 or not _packs(x) else self._with(x, other, "mul")

    def _with(self, x: Tensor, other: Tensor, what: str) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._pack(x), self.bias, what)
        return y

    def _pack(self, x: Tensor) -> Tensor:
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, x.numel() // x.shape[-1])
        return self._packed


class Norm(nn.Module):
    """Over groups of channels, and SiLU."""

    def __init__(self, norm: nn.GroupNorm, *, silu: bool = True) -> None:
        super().__init__()
        self.weight, self.bias = _frozen(norm.weight), _frozen(norm.bias)
        self.groups, self.eps, self.silu = norm.num_groups, norm.eps, silu

    def forward(self, x: Tensor) -> Tensor:
        y = functional.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        return functional.silu(y, inplace=True) if self.silu else y


class CellNorm(nn.Module):
    """Over the channels of a cell."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = _frozen(norm.weight), _frozen(norm.bias), norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Residual(nn.Module):
    """norm, SiLU, convolution, twice, and the input beside it."""

    def __init__(self, block: Any, embedding: Tensor | None = None) -> None:
        """block: diffusers' ResnetBlock2D. embedding: (1, E) of the timestep, after SiLU."""
        super().__init__()
        shift = (
            None
            if embedding is None
            else functional.linear(embedding, block.time_emb_proj.weight.float(), block.time_emb_proj.bias.float())[0]
        )
        self.norm1, self.conv1 = Norm(block.norm1), Conv(block.conv1, shift)
        self.norm2, self.conv2 = Norm(block.norm2), Conv(block.conv2)
        self.beside = None if block.conv_shortcut is None else Conv(block.conv_shortcut)

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.beside is None else self.beside(x)
        y: Tensor = self.conv2(self.norm2(self.conv1(self.norm1(x))), beside)
        return y


class SelfAttention(nn.Module):
    """(N, T, C) -> (N, T, C), and `beside` added."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads = attention.heads
        self.three, self.out = Linear(attention.to_q, attention.to_k, attention.to_v), Linear(attention.to_out[0])

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        query, key, value = _heads(self.three(x), 3, self.heads)
        y: Tensor = self.out(_joined(functional.scaled_dot_product_attention(query, key, value)), add=beside)
        return y


class CrossAttention(nn.Module):
    """(N, T, C), tokens (N, 50, 384) -> (N, T, C), and `beside` added."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads = attention.heads
        self.query, self.two, self.out = (
            Linear(attention.to_q),
            Linear(attention.to_k, attention.to_v),
            Linear(attention.to_out[0]),
        )

    def forward(self, x: Tensor, tokens: Tensor, beside: Tensor) -> Tensor:
        (query,), (key, value) = _heads(self.query(x), 1, self.heads), _heads(self.two(tokens), 2, self.heads)
        y: Tensor = self.out(_joined(functional.scaled_dot_product_attention(query, key, value)), add=beside)
        return y


class MiddleAttention(nn.Module):
    """The autoencoder's, over all 1024 cells, in one head of 512."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.norm, self.attention = Norm(attention.group_norm, silu=False), SelfAttention(attention)

    def forward(self, x: Tensor) -> Tensor:
        return _picture(self.attention(_cells(self.norm(x)), _cells(x)), x)


class Transformer(nn.Module):
    """diffusers' Transformer2DModel of one block: cells to cells, cells to tokens, a gated layer."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        (block,) = transformer.transformer_blocks
        self.norm, self.into, self.outof = (
            Norm(transformer.norm, silu=False),
            Linear(transformer.proj_in),
            Linear(transformer.proj_out),
        )
        self.norms = nn.ModuleList([CellNorm(block.norm1), CellNorm(block.norm2), CellNorm(block.norm3)])
        self.cells, self.voice = SelfAttention(block.attn1), CrossAttention(block.attn2)
        self.value, self.gate, self.narrow = *_halves(block.ff.net[0].proj), Linear(block.ff.net[2])

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        y = self.into(_cells(self.norm(x)))
        y = self.cells(self.norms[0](y), y)
        y = self.voice(self.norms[1](y), tokens, y)
        seen = self.norms[2](y)
        y = self.narrow(self.value.times(seen, self.gate.gelu(seen)), add=y)
        return _picture(self.outof(y, add=_cells(x)), x)


class FastUnet(nn.Module):
    """(N, 8, 32, 32), tokens (N, 50, 384) -> (N, 4, 32, 32) at timestep 0."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        net: Any = unet
        now = _embedding(net)
        middle = net.mid_block
        self.first, self.norm, self.last = Conv(net.conv_in), Norm(net.conv_norm_out), Conv(net.conv_out)
        self.down = nn.ModuleList([_pairs(block, now) for block in net.down_blocks])
        self.up = nn.ModuleList([_pairs(block, now) for block in net.up_blocks])
        self.lower = nn.ModuleList([Conv(block.downsamplers[0].conv) for block in net.down_blocks if block.downsamplers])
        self.raised = nn.ModuleList([SmallUpsample(block.upsamplers[0].conv) for block in net.up_blocks if block.upsamplers])
        self.before, self.between, self.after = (
            Residual(middle.resnets[0], now),
            Transformer(middle.attentions[0]),
            Residual(middle.resnets[1], now),
        )

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        x = self.first(x.contiguous(memory_format=LAST))
        kept = [x]
        for level, pairs in enumerate(self.down):
            for pair in pairs:  # type: ignore[attr-defined]
                kept.append(x := _through(pair, x, tokens))
            if level < len(self.lower):
                kept.append(x := self.lower[level](x))
        x = self.after(self.between(self.before(x), tokens))
        for level, pairs in enumerate(self.up):
            for pair in pairs:  # type: ignore[attr-defined]
                x = _through(pair, torch.cat([x, kept.pop()], 1), tokens)
            if level < len(self.raised):
                x = self.raised[level](x)
        y: Tensor = self.last(self.norm(x))
        return y


class FastDecoder(nn.Module):
    """(N, 4, 32, 32) of unit variance -> (N, 3, 256, 256) around [-1, 1]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        net: Any = vae
        decoder, blocks = net.decoder, net.decoder.up_blocks
        self.quantised, self.first = Conv(net.post_quant_conv), Conv(decoder.conv_in)
        self.middle = _middle(decoder.mid_block)
        self.levels = nn.Sequential(*(layer for block in blocks for layer in _raising(block)))
        self.norm, self.last = Norm(decoder.conv_norm_out), Conv(decoder.conv_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.first(self.quantised(x.contiguous(memory_format=LAST))))
        y: Tensor = self.last(self.norm(self.levels(x)))
        return y


class FastEncoder(nn.Module):
    """(N, 3, 256, 256) in [-1, 1] -> (N, 4, 32, 32), the mode of the posterior."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        net: Any = vae
        encoder = net.encoder
        self.first = Conv(encoder.conv_in)
        self.levels = nn.Sequential(*(layer for block in encoder.down_blocks for layer in _lowering(block)))
        self.middle = _middle(encoder.mid_block)
        self.norm, self.last, self.quantised = Norm(encoder.conv_norm_out), Conv(encoder.conv_out), Conv(net.quant_conv)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.levels(self.first(x.contiguous(memory_format=LAST))))
        moments: Tensor = self.quantised(self.last(self.norm(x)))
        return moments.chunk(2, dim=1)[0]


class _Lower(nn.Module):
    """Half the size, with a row and a column of zeros behind the last, as the autoencoder was trained."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = Conv(conv)

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (0, 1, 0, 1)).contiguous(memory_format=LAST)
        y: Tensor = self.conv(padded)
        return y


def _halves(both: nn.Linear) -> tuple[Linear, Linear]:
    """Of a gated layer: the value, and what it is multiplied with after GELU."""
    made = []
    for weight, bias in zip(both.weight.chunk(2), both.bias.chunk(2), strict=True):
        half = nn.Linear(1, 1)  # of any size: it is given these numbers
        half.weight, half.bias = _frozen(weight), _frozen(bias)
        made.append(Linear(half))
    return made[0], made[1]


def _packs(x: Tensor) -> bool:
    """Whether oneDNN is there and computes in this precision: not on every CPU."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _frozen(tensor: Tensor) -> nn.Parameter:
    """The same memory under another name: the net it comes from may be converted for a moment, and this one not."""
    return nn.Parameter(tensor.detach(), False)


def _embedding(unet: Any) -> Tensor:
    """(1, E) float32: timestep 0 after the SiLU that each residual block begins with."""
    step = torch.zeros(1, dtype=torch.int64, device=unet.device)
    first, second = unet.time_embedding.linear_1, unet.time_embedding.linear_2
    hidden = functional.silu(functional.linear(unet.time_proj(step).float(), first.weight.float(), first.bias.float()))
    return functional.silu(functional.linear(hidden, second.weight.float(), second.bias.float()))


def _pairs(block: Any, embedding: Tensor) -> nn.ModuleList:
    """Residual blocks, each with its transformer where the level has them."""
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return nn.ModuleList(
        nn.ModuleList([Residual(resnet, embedding), *([] if attention is None else [Transformer(attention)])])
        for resnet, attention in zip(block.resnets, attentions, strict=True)
    )


def _through(pair: Iterable[nn.Module], x: Tensor, tokens: Tensor) -> Tensor:
    for layer in pair:
        x = layer(x, tokens) if isinstance(layer, Transformer) else layer(x)
    return x


def _middle(block: Any) -> nn.Sequential:
    return nn.Sequential(Residual(block.resnets[0]), MiddleAttention(block.attentions[0]), Residual(block.resnets[1]))


def _raising(block: Any) -> list[nn.Module]:
    raised = [Upsample(block.upsamplers[0].conv)] if block.upsamplers else []
    return [*map(Residual, block.resnets), *raised]


def _lowering(block: Any) -> list[nn.Module]:
    lowered = [_Lower(block.downsamplers[0].conv)] if block.downsamplers else []
    return [*map(Residual, block.resnets), *lowered]


def _cells(x: Tensor) -> Tensor:
    """(N, C, H, W) channels last -> (N, H * W, C), the same memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _picture(cells: Tensor, like: Tensor) -> Tensor:
    """(N, H * W, C) -> (N, C, H, W) channels last, the same memory."""
    count, channels, height, width = like.shape
    return cells.reshape(count, height, width, channels).permute(0, 3, 1, 2)


def _heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(N, T, parts * C) -> parts of (N, heads, T, C / heads)."""
    count, cells, _ = x.shape
    return x.reshape(count, cells, parts, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def _joined(x: Tensor) -> Tensor:
    """(N, heads, T, D) -> (N, T, heads * D)."""
    return x.transpose(1, 2).flatten(2)
