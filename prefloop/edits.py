"""Edits of a text that leave what it says: slips of the keys, short forms, other words.

All are pure: `choose` is the only source of chance, and the same one gives the same text.
"""

from __future__ import annotations

import re
from random import Random

SHORT = {"do not": "don't", "does not": "doesn't", "is not": "isn't", "are not": "aren't", "it is": "it's",
         "cannot": "can't", "will not": "won't", "I am": "I'm", "you are": "you're", "they are": "they're"}
SYNONYMS = {"big": "large", "help": "assist", "show": "demonstrate", "because": "since", "also": "as well",
            "many": "a lot of", "important": "significant", "people": "persons", "good": "fine", "need": "require",
            "think": "believe", "use": "utilise", "get": "obtain", "very": "really"}


def typos(text: str, choose: Random) -> str:
    """Two neighbouring letters inside a word swapped, in one long word of twelve, at least one."""
    words = text.split(" ")
    long = [n for n, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    for n in choose.sample(long, min(len(long), 1 + len(words) // 12)):
        at = choose.randrange(1, len(words[n]) - 2)
        words[n] = words[n][:at] + words[n][at + 1] + words[n][at] + words[n][at + 2 :]
    return " ".join(words)


def replaced(text: str, table: dict[str, str]) -> str:
    """Whole words and phrases of `table`, whether or not they begin with a capital; the new ones then do as well."""
    known = {key[0].lower() + key[1:]: new for key, new in table.items()}

    def other(found: re.Match[str]) -> str:
        new = known[found[0][0].lower() + found[0][1:]]
        return new[0].upper() + new[1:] if found[0][0].isupper() else new

    either = "|".join(f"[{key[0].upper()}{key[0]}]{re.escape(key[1:])}" for key in known)
    return re.sub(rf"\b(?:{either})\b", other, text)
