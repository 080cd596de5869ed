"""A transformer that reads a sequence: every token sees itself and those before it."""

import torch
from torch import Tensor, nn

from metaexp.models.transformer import Block, Memory, TokenNorm


class CausalTransformer(nn.Module):
    """Pre-norm layers without positional encoding, for tokens that say themselves what matters of their place.

    `forward` reads a whole sequence, `step` one token after the other with the keys and values of those before, in
    tensors of one size, so that vmap maps it; both give the same outputs.

    Args:
        width, heads, layers: width of a token, which is divided among the heads, number of heads and of layers.

    Raises:
        ValueError: a number is below 1, or the width is not a multiple of the heads.
    """

    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        for name, value in (("width", width), ("heads", heads), ("layers", layers)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if width % heads:
            raise ValueError(f"width={width}: must be a multiple of heads={heads}")
        self.width, self.heads = width, heads
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(layers))
        self.norm = TokenNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, width] -> [n, width]."""
        place = torch.arange(len(tokens), device=tokens.device)
        later = place > place[:, None]  # [n, n]
        for block in self.blocks:
            tokens = block(tokens, block.memory(tokens), later)  # type: ignore[operator]
        return self.norm(tokens)

    def begin(self, length: int) -> list[Memory]:
        """Room for the keys and values of `length` tokens: for each layer two of [heads, length, width / heads]."""
        room = self.norm.weight.new_zeros(self.heads, length, self.width // self.heads)
        return [(room, room) for _ in self.blocks]

    def step(self, token: Tensor, memories: list[Memory], t: Tensor) -> tuple[Tensor, list[Memory]]:
        """Token number t (int64 []), [width] -> (its output [width], the memories with it)."""
        place = torch.arange(memories[0][0].shape[1], device=token.device)
        here, later = (place == t)[:, None], (place > t)[None]
        tokens = token[None]
        made: list[Memory] = []
        for block, memory in zip(self.blocks, memories, strict=True):
            own = block.memory(tokens)  # type: ignore[operator]
            made.append((torch.where(here, own[0], memory[0]), torch.where(here, own[1], memory[1])))
            tokens = block(tokens, made[-1], later)
        return self.norm(tokens)[0], made
