"""Texts that nearly repeat one another, found by MinHash in memory that grows by a few bytes a row.

A text is folded (case, punctuation and spacing do not count), cut into shingles of 16 bytes that begin where a word or
a character beyond ASCII does, and kept as 64 minima of their hashes, a byte each. Two texts agree in about as many of
the 64 as their shingles overlap (Jaccard). Those that agree in a whole band of 4 are compared.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

HASHES, ROWS, ALIKE = 64, 4, 0.8
SHINGLE = 16
CHUNK, COMPARED, BATCH = 1 << 16, 1 << 14, 64

_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0xFF51AFD7ED558CCD)
_ODD = (np.random.default_rng(0).integers(0, 2**63, HASHES, dtype=np.uint64) << np.uint64(1)) | np.uint64(1)
_BINS = np.arange(HASHES, dtype=np.uint64) << np.uint64(48 - 6)
_GAP = b"\0" * (SHINGLE + 1)
# Letters in lower case, digits, and bytes beyond ASCII; all else is a space. 0 stands between texts.
_FOLD = np.array([ord(chr(b).lower()) if chr(b).isalnum() or b > 127 else 32 for b in range(256)], dtype=np.uint8)
_FOLD[0], _FOLD[128:] = 0, np.arange(128, 256)

SIGNED = np.dtype([("prompt", "u1", (HASHES,)), ("answers", "u1", (HASHES,)), ("item", "<u8"), ("split", "u1"),
                   ("file", "<u4"), ("row", "<u8")])


def signatures(texts: list[str]) -> np.ndarray:
    """64 bytes for each text, which a text alike mostly shares."""
    folded = _FOLD[np.frombuffer(b"".join(_bytes(text) + _GAP for text in texts), dtype=np.uint8)]
    space = folded == 32
    space[:-1] &= folded[1:] <= 32
    folded = folded[~space]
    begins = folded > 32
    begins[1:] &= (folded[:-1] <= 32) | (folded[1:] >= 0xC0)
    starts = np.flatnonzero(begins)
    ends = np.flatnonzero(folded == 0)[len(_GAP) - 1:: len(_GAP)]
    owners = ends.searchsorted(starts).astype(np.uint64)
    words = np.ndarray((len(folded) - 7,), dtype="<u8", buffer=folded, strides=(1,))
    hashes = (words[starts] * _MIX[0]) ^ (words[starts + 8] * _MIX[1])
    hashes ^= hashes >> np.uint64(29)
    hashes *= _MIX[2]
    # The texts' hashes one text after the other, sorted: the upper 16 bits say whose.
    hashes = np.sort((hashes >> np.uint64(16)) | (owners << np.uint64(48)))
    own = np.arange(len(texts) + 1, dtype=np.uint64) << np.uint64(48)
    edges = hashes.searchsorted(own)
    places = hashes.searchsorted((own[:-1, None] | _BINS).ravel()).reshape(len(texts), HASHES)
    # The least hash of each bin; an empty bin takes the next one's, the last the first's.
    places = np.where(places < edges[1:, None], places, edges[:-1, None])
    least = np.append(hashes, np.uint64(0))[places]
    least[edges[1:] == edges[:-1]] = 0
    return (((least << np.uint64(16)) * _ODD) >> np.uint64(56)).astype(np.uint8)


def _bytes(text: str) -> bytes:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).casefold()
    return text.encode("utf-8", "replace").replace(b"\0", b" ")


class Signatures:
    """One entry a record, in a scratch file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb")
        self.waiting: list[tuple[str, Sequence[str], int, int, int, int]] = []

    def add(self, prompt: str, answers: Sequence[str], item: int, split: int, file: int, row: int) -> None:
        """`item` is a digest of the exact prompt and answers: one that stands twice is no near duplicate of itself."""
        self.waiting.append((prompt, answers, item, split, file, row))
        if len(self.waiting) == BATCH:
            self._sign()

    def _sign(self) -> None:
        batch = np.zeros(len(self.waiting), dtype=SIGNED)
        prompts, answers, *facts = zip(*self.waiting, strict=True)
        distinct = {text: place for place, text in enumerate(dict.fromkeys([*prompts, *chain(*answers)]))}
        signed = signatures(list(distinct))
        batch["prompt"] = signed[[distinct[text] for text in prompts]]
        # The answers share the 64 in turns, so that a short one counts as much as a long one.
        turns = [[distinct[own[turn % len(own)]] for turn in range(HASHES)] for own in answers]
        batch["answers"] = signed[turns, np.arange(HASHES)]
        for name, told in zip(("item", "split", "file", "row"), facts, strict=True):
            batch[name] = told
        self.file.write(batch.tobytes())
        self.waiting.clear()

    def finish(self) -> None:
        if self.waiting:
            self._sign()
        self.file.close()

    def size(self) -> int:
        return self.path.stat().st_size // SIGNED.itemsize

    def chunks(self) -> Iterator[np.ndarray]:
        for start in range(0, self.size(), CHUNK):
            yield np.fromfile(self.path, dtype=SIGNED, count=CHUNK, offset=start * SIGNED.itemsize)

    def at(self, places: np.ndarray) -> np.ndarray:
        # Read and not mapped: the pages around each one mapped would count as memory.
        size = SIGNED.itemsize
        with self.path.open("rb") as file:
            handle = file.fileno()
            return np.frombuffer(b"".join(os.pread(handle, size, place * size) for place in places.tolist()), SIGNED)


def repeats(signed: Signatures) -> np.ndarray:
    """For each record, the earlier one that it nearly repeats, prompt and answers both; -1 where there is none."""
    def alike(new: np.ndarray, old: np.ndarray) -> np.ndarray:
        return ((new["item"] != old["item"]) & (_share(new["prompt"], old["prompt"]) >= ALIKE)
                & (_share(new["answers"], old["answers"]) >= ALIKE))

    half = ROWS // 2
    bands = ((("prompt", start, half), ("answers", start, half)) for start in range(0, HASHES, ROWS))
    return _found(signed, bands, alike)


def leaks(signed: Signatures) -> np.ndarray:
    """For each record, an earlier one whose prompt is nearly its own but stands in another split; -1 without one."""
    def alike(new: np.ndarray, old: np.ndarray) -> np.ndarray:
        return (new["split"] != old["split"]) & (_share(new["prompt"], old["prompt"]) >= ALIKE)

    return _found(signed, ((("prompt", start, ROWS),) for start in range(0, HASHES, ROWS)), alike)


def resembling(texts: Sequence[str], known: Sequence[str]) -> list[int]:
    """For each text, the place in `known` of one that is nearly its own; -1 where there is none."""
    signed, others = _signed(texts), _signed(known)
    like = np.full(len(texts), -1)
    for start in range(0, HASHES, ROWS):
        own, theirs = (np.ascontiguousarray(one[:, start: start + ROWS]).view("<u4")[:, 0] for one in (signed, others))
        order = np.argsort(theirs, kind="stable")
        first, last = (theirs[order].searchsorted(own, side) for side in ("left", "right"))
        for place in np.flatnonzero((last > first) & (like < 0)):
            same_band = order[first[place]: last[place]]
            shares = (others[same_band] == signed[place]).mean(axis=1)
            if shares.max() >= ALIKE:
                like[place] = same_band[shares.argmax()]
    return like.tolist()


def _signed(texts: Sequence[str]) -> np.ndarray:
    return np.concatenate([np.zeros((0, HASHES), np.uint8), *(signatures(list(texts[start: start + COMPARED]))
                                                              for start in range(0, len(texts), COMPARED))])


def _found(signed: Signatures, bands: Iterable[tuple[tuple[str, int, int], ...]],
           alike: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Records that share a band with an earlier one are compared with its first and with the two before them."""
    like = np.full(signed.size(), -1, dtype=np.int32)
    for band in bands:
        order, first = _shared(_keys(signed, band))
        for back in (0, 1, 2):
            places = np.arange(len(order))
            others = first if back == 0 else places - back
            places = places[(others >= first) & (others < places) & (like[order] < 0)]
            for start in range(0, len(places), COMPARED):
                own = places[start: start + COMPARED]
                later, earlier = order[own], order[others[own]]
                same = alike(signed.at(later), signed.at(earlier))
                like[later[same]] = earlier[same]
    return like


def _keys(signed: Signatures, band: tuple[tuple[str, int, int], ...]) -> np.ndarray:
    """A band of each record's signatures, four bytes, as one number."""
    def key(chunk: np.ndarray) -> np.ndarray:
        joined = np.concatenate([chunk[name][:, start: start + size] for name, start, size in band], axis=1)
        return np.ascontiguousarray(joined).view("<u4")[:, 0]

    keys, done = np.empty(signed.size(), dtype="<u4"), 0
    for chunk in signed.chunks():
        keys[done: done + len(chunk)] = key(chunk)
        done += len(chunk)
    return keys


def _shared(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The records whose key is another's too, those of one key side by side, and where each key begins."""
    order = np.argsort(keys, kind="stable").astype(np.int32)
    again = np.zeros(len(keys) + 1, dtype=bool)  # as the one before
    np.equal(keys[order[1:]], keys[order[:-1]], out=again[1:-1])
    shared = again[:-1] | again[1:]
    again = again[:-1][shared]
    return order[shared], np.maximum.accumulate(np.where(again, 0, np.arange(len(again))))


def _share(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (some == others).mean(axis=1)
