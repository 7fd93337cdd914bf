"""The published U-Net in small, written out: diffusers' UNet2DConditionModel at timestep 0 with attention at the coarsest level only.

    (N, in, S, S), tokens (N, T, 384), beside the time embedding (N, 256)  ->  (N, out, S, S)

Parameters have diffusers' names, so either reads what the other wrote. Written out because importing diffusers takes longer than
dubbing ten seconds of film: 3.3 s of the 15 that the example took. Knows nothing of lips, latents or files.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 16


class SmallUnet(nn.Module):
    """Residual blocks of given widths, fine to coarse; one on each level down, two on each level up."""

    def __init__(self, channels: int, answers: int, widths: Sequence[int], heads: int, token_width: int, beside: int) -> None:
        """channels in, answers out; beside: numbers that go beside the time embedding."""
        super().__init__()
        time = 4 * widths[0]
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.time_embedding, self.class_embedding = Embedding(widths[0], time), Embedding(beside, time)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            coarsest = level == len(widths) - 1
            block = Level(token_width if coarsest else 0, heads)
            block.add(widths[max(level - 1, 0)], width, time)
            if not coarsest:
                block.downsamplers = nn.ModuleList([Resampler(width, stride=2)])
            self.down_blocks.append(block)
        self.mid_block = Level(token_width, heads)
        self.mid_block.add(widths[-1], widths[-1], time)
        self.mid_block.resnets.append(Residual(widths[-1], widths[-1], time))
        kept, came = [widths[0], *_kept(widths)], widths[-1]
        for level, width in reversed(list(enumerate(widths))):
            block = Level(token_width if level == len(widths) - 1 else 0, heads)
            for _ in range(2):
                block.add(came + kept.pop(), width, time)
                came = width
            if level:
                block.upsamplers = nn.ModuleList([Resampler(width)])
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(GROUPS, widths[0])
        self.conv_out = nn.Conv2d(widths[0], answers, 3, padding=1)
        self.register_buffer("_now", torch.cat([torch.ones(widths[0] // 2), torch.zeros(widths[0] // 2)]), persistent=False)

    _now: Tensor  # of the sinusoids at timestep 0: cosines, then sines

    def forward(self, x: Tensor, tokens: Tensor, beside: Tensor) -> Tensor:
        """(N, channels, S, S), (N, T, token width), (N, beside) -> (N, answers, S, S)."""
        time = functional.silu(self.time_embedding(self._now.to(x.dtype)[None]) + self.class_embedding(beside))
        kept = [x := self.conv_in(x)]
        for block in self.down_blocks:
            assert isinstance(block, Level)
            x = block.through(0, x, time, tokens)
            kept.append(x)
            if block.downsamplers is not None:
                kept.append(x := block.downsamplers[0](x))
        x = self.mid_block.resnets[1](self.mid_block.through(0, x, time, tokens), time)
        for block in self.up_blocks:
            assert isinstance(block, Level)
            for number in range(len(block.resnets)):
                x = block.through(number, torch.cat([x, kept.pop()], 1), time, tokens)
            if block.upsamplers is not None:
                x = block.upsamplers[0](functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        out: Tensor = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return out


def _kept(widths: Sequence[int]) -> list[int]:
    """What the way down keeps behind the first convolution: of each level its answer, and that in half the size."""
    return [kept for width in widths[:-1] for kept in (width, width)] + [widths[-1]]


class Level(nn.Module):
    """Blocks of one size of picture: residual ones, each with its transformer where token_width is not 0."""

    downsamplers: nn.ModuleList | None
    upsamplers: nn.ModuleList | None

    def __init__(self, token_width: int, heads: int) -> None:
        super().__init__()
        self.token_width, self.heads = token_width, heads
        self.resnets = nn.ModuleList()
        self.attentions = nn.ModuleList() if token_width else None
        self.downsamplers = self.upsamplers = None

    def add(self, before: int, after: int, time: int) -> None:
        """One more block, from width `before` to `after`."""
        self.resnets.append(Residual(before, after, time))
        if self.attentions is not None:
            self.attentions.append(Transformer(after, self.heads, self.token_width))

    def through(self, number: int, x: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
        """Block `number` alone."""
        y: Tensor = self.resnets[number](x, time)
        return y if self.attentions is None else self.attentions[number](y, tokens)


class Embedding(nn.Module):
    """Two layers, (N, before) -> (N, after)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(before, after), nn.Linear(after, after)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear_2(functional.silu(self.linear_1(x)))
        return y


class Resampler(nn.Module):
    """The convolution that halves, or that follows doubling."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class Residual(nn.Module):
    """norm, SiLU, convolution, twice, the second norm scaled and shifted by the embedding; and the input beside it."""

    def __init__(self, before: int, after: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, before), nn.Conv2d(before, after, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, 2 * after)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, after), nn.Conv2d(after, after, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """time: (N, E) behind SiLU."""
        scale, shift = self.time_emb_proj(time)[:, :, None, None].chunk(2, dim=1)
        y = self.norm2(self.conv1(functional.silu(self.norm1(x))))
        y = self.conv2(functional.silu(y * (1 + scale) + shift))
        out: Tensor = y + (x if self.conv_shortcut is None else self.conv_shortcut(x))
        return out


class Transformer(nn.Module):
    """Cells to cells, cells to tokens, a gated layer; over the cells of a picture, which is added at the end."""

    def __init__(self, width: int, heads: int, token_width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([Block(width, heads, token_width)])

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        count, width, rows, columns = x.shape
        y = self.proj_in(self.norm(x)).permute(0, 2, 3, 1).reshape(count, rows * columns, width)
        y = self.transformer_blocks[0](y, tokens)
        y = y.reshape(count, rows, columns, width).permute(0, 3, 1, 2)
        out: Tensor = self.proj_out(y) + x
        return out


class Block(nn.Module):
    """(N, C, width), tokens (N, T, token width) -> (N, C, width)."""

    def __init__(self, width: int, heads: int, token_width: int) -> None:
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), Attention(width, heads, width)
        self.norm2, self.attn2 = nn.LayerNorm(width), Attention(width, heads, token_width)
        self.norm3, self.ff = nn.LayerNorm(width), Gated(width)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        seen = self.norm1(x)
        x = self.attn1(seen, seen) + x
        x = self.attn2(self.norm2(x), tokens) + x
        out: Tensor = self.ff(self.norm3(x)) + x
        return out


class Attention(nn.Module):
    """What each cell asks of others: (N, C, width), (N, T, other width) -> (N, C, width)."""

    def __init__(self, width: int, heads: int, other: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = nn.Linear(other, width, bias=False), nn.Linear(other, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, others: Tensor) -> Tensor:
        query, key, value = (self._apart(made) for made in (self.to_q(x), self.to_k(others), self.to_v(others)))
        found = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.to_out[0](found.transpose(1, 2).flatten(2))
        return out

    def _apart(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Gated(nn.Module):
    """GEGLU, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([Gate(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net[2](self.net[0](x))
        return y


class Gate(nn.Module):
    """A value times GELU of another."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.proj = nn.Linear(before, 2 * after)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        y: Tensor = value * functional.gelu(gate)
        return y
