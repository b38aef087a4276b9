"""The index of grants, held against a dict."""

from __future__ import annotations

import random

import pytest

from dataplane._grants import GrantsFace

SEGMENT = 512  # chains there are at first


def digests(count: int, seed: int) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(32) for _ in range(count)]


@pytest.mark.parametrize("seed", range(4))
def test_index_finds_what_a_dict_finds(seed: int) -> None:
    source = random.Random(seed)
    tokens = digests(300, seed)
    face, model = GrantsFace(4000), dict[int, bytes]()
    for _ in range(30_000):
        number, token = source.randrange(4000), source.choice(tokens)
        if number in model:
            face.leave(number)
            del model[number]
        else:
            face.enter(number, token)
            model[number] = token
        if source.random() < 0.02:
            old, new = source.sample(tokens, 2)
            mine = [n for n, held in model.items() if held == old]
            assert face.move(old, new) == len(mine)
            model.update(dict.fromkeys(mine, new))
        assert len(face) == len(model)
    for token in tokens:
        assert face.find(token) == {n for n, held in model.items() if held == token}


def test_index_grows_by_a_chain_at_a_time_up_to_what_was_asked_for() -> None:
    most = 3 * SEGMENT
    face, tokens = GrantsFace(most), digests(most, 7)
    for number, token in enumerate(tokens):
        before = face.chains
        face.enter(number, token)
        assert face.chains - before == (number + 1 > before)
        assert face.find(token) == {number}
    assert face.chains == most
    assert all(face.find(token) == {number} for number, token in enumerate(tokens))


def test_grant_moves_to_its_own_token_without_an_end() -> None:
    face, (token, *_) = GrantsFace(10), digests(1, 1)
    for number in range(10):
        face.enter(number, token)
    assert face.move(token, token) == 10
    assert face.find(token) == set(range(10))
