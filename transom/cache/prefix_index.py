"""`PrefixIndex`: which blocks hold the KV of which beginning of a sequence. Owns one reference of every block it names.

A node is one block position of a chain of tokens; it names a block of each kind of layers, or of some of them, for they
are forgotten one by one. Knows no tier, no policy and no open sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from transom.cache.block import Block
from transom.cache.block_pool import BlockPool
from transom.cache.prefix_record import BlockRecord
from transom.cache.publishing import Publishing
from transom.config.model_config import LayerKind


@dataclass(slots=True, eq=False)
class PrefixNode:
    """One block position of a chain."""

    key: bytes
    parent: bytes
    """Key of the position before it, or of the root."""
    index: int
    tenant: bytes
    blocks: dict[LayerKind, Block] = field(default_factory=dict)
    """Those that are there. SHORT_CONV: what the convolutions remember behind the position's last token."""
    num_uses: int = 0
    """How many sequences found it."""


class PrefixIndex:
    """Nodes by key, each with at least one block. Used by one thread."""

    def __init__(self, pool: BlockPool, publishing: Publishing) -> None:
        self._pool = pool
        self._publishing = publishing
        self._nodes: dict[bytes, PrefixNode] = {}
        self._node_of: dict[Block, PrefixNode] = {}

    @property
    def num_nodes(self) -> int:
        return len(self._nodes)

    def get(self, key: bytes) -> PrefixNode | None:
        return self._nodes.get(key)

    def node_of(self, block: Block) -> PrefixNode:
        """Of a block that is in the index; KeyError for others."""
        return self._node_of[block]

    def put(self, node: PrefixNode, block: Block) -> bool:
        """The index owns a sealed block, too, from now on; False: it has one at this place and keeps that.

        `node` is what `get` returned, or a new one for a key that is not there.
        """
        if block.kind in node.blocks:
            return False
        self._own(node, block)
        self._publishing.note_block(node, block)
        return True

    def restore(self, records: Iterable[BlockRecord]) -> None:
        """Blocks that an earlier run left in the cold tier, least recently used first; before anything else is here."""
        for record in records:
            node = self._nodes.get(record.key) or PrefixNode(record.key, record.parent, record.index, record.tenant)
            block = self._pool.restore(record.kind, len(record.checksums), record.index, record.cold_index)
            self._own(node, block)
            self._pool.release(block)

    def note_written(self, block: Block) -> None:
        """The write of a block, of whomever, is over."""
        if block.is_indexed:
            self._publishing.note_block(self._node_of[block], block)

    def note_leaving(self, block: Block) -> None:
        """A block of the index gives up its place in the cold tier, and stays in RAM."""
        self._publishing.note_dropped(self._node_of[block], block)

    def note_used(self, nodes: Sequence[PrefixNode]) -> None:
        """A sequence began with these nodes, in order of position."""
        self._publishing.note_used(nodes)

    def _own(self, node: PrefixNode, block: Block) -> None:
        assert block.sealed, "a block was published that may still change"
        assert not block.is_indexed, "a block was published twice"
        assert self._nodes.setdefault(node.key, node) is node, "two nodes have one key"
        node.blocks[block.kind] = self._pool.share(block)
        self._node_of[block] = node
        block.is_indexed = True

    def drop(self, block: Block) -> None:
        """Nobody will find this block any more; whoever uses it keeps it."""
        node = self._node_of.pop(block)
        self._publishing.note_dropped(node, block)
        del node.blocks[block.kind]
        if not node.blocks:
            del self._nodes[node.key]
        block.is_indexed = False
        self._pool.release(block)

    def blocks(self) -> Iterator[Block]:
        """Every block of the index, once."""
        return iter(self._node_of)

    def check_integrity(self) -> None:
        """Raises AssertionError when nodes and blocks do not agree."""
        num_blocks = 0
        for key, node in self._nodes.items():
            assert node.key == key, "a node lies under a key that is not its own"
            assert node.blocks, "a node without blocks was kept"
            for kind, block in node.blocks.items():
                assert self._node_of.get(block) is node, "a block of a node does not know it"
                assert block.kind is kind, "a node names a block of another kind"
                assert block.index == node.index, "a node names a block of another position"
                assert block.sealed, "a node names a block that may still change"
                assert block.is_indexed, "a node names a block that does not know it"
                num_blocks += 1
        assert num_blocks == len(self._node_of), "a block knows a node that does not name it"
