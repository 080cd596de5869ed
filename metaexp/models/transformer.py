"""A transformer over a set of tokens whose memory is computed once; queries attend to it but not to each other."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Memory = tuple[Tensor, Tensor]  # keys and values, each [heads, n, width / heads]


class TokenNorm(nn.Module):
    """Mean 0 and variance 1 over the width of a token, then scale and shift, in elementary operations.

    Its derivatives of any order are correct under vmap, unlike those of torch's kernel. A function with a custom
    gradient, as in `metaexp.models.norms`, would halve the speed of a step here.
    """

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        """[*, width] -> the same shape."""
        x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight + self.bias


class Block(nn.Module):
    """Pre-norm attention to a memory, then a GELU network: t + attend(norm(t)), then t + mlp(norm(t)).

    Attention is written as matrix products and a softmax, which have derivatives of any order and work under vmap.
    """

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm, self.norm_mlp = TokenNorm(width), TokenNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def _split(self, t: Tensor) -> Tensor:
        return t.unflatten(-1, (self.heads, -1)).transpose(-2, -3)  # [n, width] -> [heads, n, width / heads]

    def memory(self, tokens: Tensor) -> Memory:
        """Keys and values of tokens [n, width]."""
        t = self.norm(tokens)
        return self._split(self.key(t)), self._split(self.value(t))

    def attention(self, tokens: Tensor, memory: Memory, hidden: Tensor | None = None) -> Tensor:
        """Attention weights of tokens [m, width] over the memory: [heads, m, n], rows sum to 1.

        `hidden`, bool [m, n]: what a token does not see; it must see something.
        """
        queries = self._split(self.query(self.norm(tokens)))
        fit = queries @ memory[0].mT / math.sqrt(queries.shape[-1])
        return torch.softmax(fit if hidden is None else fit.masked_fill(hidden, -torch.inf), dim=-1)

    def forward(self, tokens: Tensor, memory: Memory, hidden: Tensor | None = None) -> Tensor:
        """[m, width] -> [m, width]; with an empty memory, attention gives 0. `hidden` as for `attention`."""
        found = (self.attention(tokens, memory, hidden) @ memory[1]).transpose(-2, -3).flatten(-2)  # [m, width]
        tokens = tokens + self.out(found)
        wide: Tensor = self.up(self.norm_mlp(tokens))
        return tokens + self.down(F.gelu(wide))


class Transformer(nn.Module):
    """A set passes through the layers once, which stores its keys and values; then any tokens can query them.

    Tokens of the set attend to the set, and query tokens attend to the set only. The result is that of one transformer
    over both whose attention mask lets every token see only the set. There is no positional encoding, so the order of
    the set has no effect.

    Args:
        width, heads, layers: width of a token, which is divided among the heads, number of heads and of layers.
        hidden: width of the network in each layer; None: 4 times the width.

    Raises:
        ValueError: a number is below 1, or the width is not a multiple of the heads.
    """

    def __init__(self, width: int, heads: int, layers: int, hidden: int | None = None):
        super().__init__()
        hidden = 4 * width if hidden is None else hidden
        for name, value in (("width", width), ("heads", heads), ("layers", layers), ("hidden", hidden)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if width % heads:
            raise ValueError(f"width={width}: must be a multiple of heads={heads}")
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm = TokenNorm(width)

    def remember(self, tokens: Tensor) -> list[Memory]:
        """The memory of each layer for a set of tokens [n, width]."""
        memories: list[Memory] = []
        for i, block in enumerate(self.blocks):
            memories.append(block.memory(tokens))  # type: ignore[operator]
            if i + 1 < len(self.blocks):  # the last layer's output for the set is never read
                tokens = block(tokens, memories[-1])
        return memories

    def ask(self, tokens: Tensor, memories: list[Memory]) -> Tensor:
        """Output of query tokens: [m, width] -> [m, width], independently for each token."""
        for block, memory in zip(self.blocks, memories, strict=True):
            tokens = block(tokens, memory)
        return self.norm(tokens)

    def attention(self, tokens: Tensor, memories: list[Memory]) -> list[Tensor]:
        """Attention weights of query tokens [m, width] in each layer, each [heads, m, n]."""
        weights = []
        for block, memory in zip(self.blocks, memories, strict=True):
            weights.append(block.attention(tokens, memory))  # type: ignore[operator]
            tokens = block(tokens, memory)
        return weights
