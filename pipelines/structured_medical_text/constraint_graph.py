"""The places of a schema's text and the tokens that lead from one to the next, worked out when first met and kept.

A place is a node, and within a free text also the characters written and the state between bytes. Nodes are of three
kinds: a stretch of text about which the schema leaves no choice, with its tokens; a free text; and a branch, with
every token that it allows and where it leads. Equal places are one node, so the graph does not grow with the samples.
This file is copied into every checkpoint and imports nothing from clinsynth.
"""

from bisect import bisect_left
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np

from .json_cursor import Cursor
from .json_string_bytes import CLOSED, DEAD, DONE, ESCAPE, PLAIN, STEP, TOKENS_TO_PLAIN
from .token_tables import TokenTables

WAYS_OUT = b']},"nft'
"""Of the bytes that a branch allows, the first of these leads to the end soonest."""


@dataclass(eq=False)
class Node:
    """A place, and what is known of it.

    Attributes:
        cursor: the place; of a stretch without choice, its beginning.
        forced: the tokens of such a stretch, empty in the other kinds.
        after: the node behind them; None at the text's end.
        lengths: of a free text, its least and most characters, else None.
        edges: of a branch, each allowed token and the place after it; filled when first asked for.
        closings: of a free text, by state, the tokens that end it; filled when first asked for.
        need: tokens from here to the text's end at least, the end token counted in.
        exit: of a free text, the node behind its closing quote.
        masks: the branch's own mask under None, or those of the free text by its state and lengths.
    """

    cursor: Cursor
    forced: list[int] = field(default_factory=list)
    after: "Node | None" = None
    lengths: tuple[int, int] | None = None
    edges: "dict[int, Position] | None" = None
    most: int = 0
    closings: "dict[int, Closings]" = field(default_factory=dict)
    need: int = -1
    exit: "Node | None" = None
    masks: dict[Hashable, int] = field(default_factory=dict)


Position = tuple[Node, int, int]
"""A node, and within a free text the characters written so far and the state between bytes."""


@dataclass(frozen=True)
class Closings:
    """The tokens that end a free text, the characters each adds to it, the place after each, and the most tokens that
    are needed from one of these places to the end."""

    tokens: np.ndarray
    added: np.ndarray
    targets: dict[int, Position]
    most: int


class Graph:
    """Nodes by place, made as they are met; `spell` turns bytes into tokens."""

    def __init__(self, tables: TokenTables, start: Cursor, spell: Callable[[bytes], list[int]], end_token: int):
        self.tables, self.spell, self.end_token = tables, spell, end_token
        self.nodes: dict[Hashable, Node] = {}
        self.start = self.node(start)
        self.quote = tables.number[b'"']

    def node(self, cursor: Cursor) -> Node:
        """The node of a place.

        Raises:
            ValueError: nothing can follow, or the vocabulary cannot write what must.
        """
        if cursor.key not in self.nodes:
            self.nodes[cursor.key] = self.make(cursor)
        return self.nodes[cursor.key]

    def make(self, cursor: Cursor) -> Node:
        written, place = bytearray(), cursor
        while place.lengths is None and len(place.allowed) == 1:
            (byte,) = place.allowed
            written.append(byte)
            place = place.advance(byte)
        if place.complete:
            return Node(cursor, forced=[*self.spell(bytes(written)), self.end_token])
        if place.lengths is None and not place.allowed:
            raise ValueError(f"the schema cannot be met: nothing may follow {bytes(written)!r}")
        if written:
            return Node(cursor, forced=self.spell(bytes(written)), after=self.node(place))
        return Node(cursor, lengths=cursor.lengths)

    def need(self, node: Node | None) -> int:
        """Tokens from a node to the text's end by the shortest way out.

        Raises:
            ValueError: the way leads back to where it was.
        """
        path: dict[Node, int] = {}
        while node is not None and node.need < 0:
            if node in path:
                raise ValueError("the schema cannot be met: no way leads to a text's end; simplify its patterns")
            cost, following = self.way_on(node)
            path[node] = cost
            node = following
        total = node.need if node is not None else 0
        for passed, cost in reversed(path.items()):
            total += cost
            passed.need = total
        return total

    def way_on(self, node: Node) -> tuple[int, Node | None]:
        """Tokens to the next node on the shortest way out, and that node."""
        if node.forced:
            return len(node.forced), node.after
        if node.lengths is not None:
            return node.lengths[0] + 1, self.behind(node)
        return 1, self.node(node.cursor.advance(way_out(node.cursor)))

    def behind(self, node: Node) -> Node:
        """The node behind a free text."""
        if node.exit is None:
            node.exit = self.node(node.cursor.close())
        return node.exit

    def need_at(self, position: Position) -> int:
        """As `need`, from a place that may lie within a free text."""
        node, length, state = position
        if node.lengths is None:
            return self.need(node)
        return int(TOKENS_TO_PLAIN[state]) + max(0, node.lengths[0] - length) + 1 + self.need(self.behind(node))

    def branch(self, node: Node) -> dict[int, Position]:
        """Every token that a branch allows and the place after it; `node.most` is the most needed from there."""
        if node.edges is None:
            edges = self.walk(node.cursor)
            node.most = max(self.need_at(position) for position in edges.values())
            node.edges = edges
        return node.edges

    def walk(self, start: Cursor) -> dict[int, Position]:
        """The tokens that may follow a place: the vocabulary in order of bytes, narrowed byte by byte."""
        data, numbers = self.tables.in_order
        found: dict[int, Position] = {}
        stack = [(0, len(data), 0, start)]
        while stack:
            low, high, depth, cursor = stack.pop()
            if cursor.lengths is not None:
                texts = ((numbers[i], self.read_text(self.node(cursor), data[i][depth:])) for i in range(low, high))
                found.update((number, position) for number, position in texts if position)
                continue
            while depth and low < high and len(data[low]) == depth:
                found[numbers[low]] = (self.node(cursor), 0, PLAIN)
                low += 1
            for byte in cursor.allowed if low < high else ():
                prefix = data[low][:depth]
                first = bisect_left(data, prefix + bytes([byte]), low, high)
                last = bisect_left(data, prefix + bytes([byte + 1]), first, high)
                if first < last:
                    stack.append((first, last, depth + 1, cursor.advance(byte)))
        if not found:
            raise ValueError("the tokenizer has no token for what the schema asks for next; use another model")
        return found

    def closing(self, node: Node, state: int) -> Closings:
        """The tokens that end a free text from a state."""
        if state not in node.closings:
            after, places = node.cursor.close(), {}
            for token in np.flatnonzero(self.tables.ends[state] == CLOSED).tolist():
                rest = self.tables.tokens[token][self.tables.closed_at[state, token] :]
                places[token] = self.read(after, rest)
            targets = {token: position for token, position in places.items() if position}
            tokens = np.array(list(targets), dtype=np.int64)
            most = max(map(self.need_at, targets.values()), default=0)
            self.need(node)
            node.closings[state] = Closings(tokens, self.tables.added[state, tokens], targets, most)
        return node.closings[state]

    def read(self, cursor: Cursor, data: bytes) -> Position | None:
        """The place after `data`, or None where it is not allowed."""
        for at, byte in enumerate(data):
            if cursor.lengths is not None:
                return self.read_text(self.node(cursor), data[at:])
            if byte not in cursor.allowed:
                return None
            cursor = cursor.advance(byte)
        return self.node(cursor), 0, PLAIN

    def read_text(self, node: Node, data: bytes) -> Position | None:
        """As `read`, from the beginning of a free text."""
        least, most = node.lengths or (0, 0)
        length, state = 0, PLAIN
        for at, byte in enumerate(data):
            length, state = length + int(DONE[state, byte]), int(STEP[state, byte])
            if state == CLOSED:
                return self.read(node.cursor.close(), data[at + 1 :]) if length >= least else None
            if state == DEAD or length + (state != PLAIN) > most:
                return None
        return (node, length, state) if state <= ESCAPE else None


def way_out(cursor: Cursor) -> int:
    """The byte after which the text ends soonest."""
    return next((byte for byte in WAYS_OUT if byte in cursor.allowed), min(cursor.allowed))
