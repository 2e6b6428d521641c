"""What happens to the tokens' text after the model: a story ends where a sentence ends."""

import re

_SENTENCE_END = re.compile(r"\w[»”\")]*[.!?…]+[»”\")]*(?=\s|$)")


def trim(text: str) -> str:
    """Cut an unfinished last sentence off; a text without a whole sentence stays as it is."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text.rstrip()
