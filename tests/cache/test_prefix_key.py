"""Keys of chains: the same for the same tokens, model and salt, and for nothing else."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.cache.prefix_key import KEY_BYTES, KeyChain, next_key, root_key, tenant_tag

TOKENS = st.lists(st.integers(0, 2**31 - 1), min_size=64, max_size=64)


def test_a_key_is_a_digest_over_fields_behind_their_lengths() -> None:
    root = root_key(b"model", "salt")
    fields = [b"transom prefix", b"1", b"model", b"salt"]
    assert root == hashlib.sha256(b"".join(len(f).to_bytes(8, "little") + f for f in fields)).digest()
    tokens = np.arange(64, dtype="<i4").tobytes()
    expected = hashlib.sha256((32).to_bytes(8, "little") + root + (256).to_bytes(8, "little") + tokens).digest()
    assert next_key(root, range(64)) == expected
    assert len(expected) == KEY_BYTES


@given(st.binary(max_size=8), st.text(max_size=8), st.binary(max_size=8), st.text(max_size=8))
def test_no_other_model_and_salt_have_the_same_root(a: bytes, salt_a: str, b: bytes, salt_b: str) -> None:
    assert (root_key(a, salt_a) == root_key(b, salt_b)) == ((a, salt_a) == (b, salt_b))


@given(TOKENS, TOKENS, st.integers(0, 63))
def test_a_key_depends_on_every_token_of_every_block(first: list[int], second: list[int], place: int) -> None:
    chain = KeyChain(b"model", "", first + second)
    for tokens in (first, second):
        tokens[place] ^= 1
        other = KeyChain(b"model", "", first + second)
        assert other.key(1) != chain.key(1)
        tokens[place] ^= 1


def test_a_chain_sees_tokens_that_come_later_and_takes_lists_and_arrays_for_the_same() -> None:
    tokens = list(range(64))
    growing = KeyChain(b"model", "a", tokens)
    assert growing.num_blocks == 1
    first = growing.key(0)
    tokens += range(64)
    assert growing.num_blocks == 2
    whole = KeyChain(b"model", "a", np.array(tokens, np.int32))
    assert [growing.key(i) for i in (-1, 0, 1)] == [whole.key(i) for i in (-1, 0, 1)]
    assert growing.key(0) == first


@pytest.mark.parametrize("count", [0, 63, 65])
def test_a_key_is_made_of_a_whole_block(count: int) -> None:
    with pytest.raises(ValueError, match="64 tokens"):
        next_key(root_key(b""), [0] * count)


def test_a_tenants_tag_does_not_depend_on_what_narrows_its_salt() -> None:
    assert tenant_tag("a\0one") == tenant_tag("a\0two") == tenant_tag("a")
    assert tenant_tag("a") != tenant_tag("b")
    assert root_key(b"", "a\0one") != root_key(b"", "a\0two")
