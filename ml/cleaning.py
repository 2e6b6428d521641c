"""Cleaning as a list of small functions, each str -> str over one paragraph, applied in order.

for paragraph in clean_lines(lines):  # a stream: one line in memory at a time
    ...

Every function in STEPS can be read, tested and left out alone. A step may break a line where two
were glued; none joins two. The steps are repeated until nothing changes, so that cleaning a
cleaned text changes nothing.

Kept: ё, capitals, dashes, «», digits, foreign words, paragraphs, the author's own asterisks
(«графиня ***»), and the words inside an editor's brackets where they complete the author's
sentence («г<осподин>»). Removed: what the author did not write.

Three dots are written "...": the corpus has 29,292 of these and 22,042 of "…" (Pushkin's prose
472 and 13), and «?..» 8,402 times against 63 «?…».
"""

import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from ml.annotations import (
    drop_curly_notes,
    drop_footnote_marks,
    drop_note_lines,
    drop_signed_notes,
    resolve_angle_brackets,
    resolve_square_brackets,
)

Step = Callable[[str], str]


def decode_entities(text: str) -> str:
    """``&mdash;`` and ``&#8212;`` become the character."""
    if "&" not in text:
        return text
    return re.sub(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[a-zA-Z]\w{1,30});", _unescape, text)


def _unescape(match: re.Match[str]) -> str:
    return html.unescape(match.group())


_TAG_NAMES = (
    "a|abbr|b|big|blockquote|br|center|cite|code|dd|div|dl|dt|em|font|h[1-6]|hr|i|includeonly|li|"
    "noinclude|nowiki|ol|p|pages|poem|pre|ref|references|s|section|small|span|strong|sub|sup|"
    "table|tbody|td|th|tr|tt|u|ul"
)
_HIDDEN = re.compile(
    r"<!--.*?-->|<ref\b[^<>]*/>|<ref\b[^<>]*>.*?</ref>|<sup\b[^<>]*>\W*\d+\W*</sup>", re.I
)
_BLOCK_TAG = re.compile(r"</?(?:blockquote|br|div|h[1-6]|hr|li|p|tr)\b[^<>]*>", re.I)
_TAG = re.compile(rf"</?(?:{_TAG_NAMES})\b[^<>]*>", re.I)


def drop_tags(text: str) -> str:
    """HTML goes, notes in ``<ref>`` with their words; ``<br>`` and ``<p>`` begin a new line."""
    if "<" not in text:
        return text
    return _TAG.sub("", _BLOCK_TAG.sub("\n", _HIDDEN.sub("", text)))


_FILE_LINK = re.compile(r"\[\[(?:файл|file|категория|category|image)[^\[\]]*\]\]", re.I)


def drop_wiki_markup(text: str) -> str:
    """``'''bold'''``, ``[[page|words]]``, ``== Heading ==``: the words stay."""
    if "[" in text:
        text = re.sub(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", _FILE_LINK.sub("", text))
        text = re.sub(r"\[https?://\S+ ([^\[\]]*)\]", r"\1", text)
    if "''" in text:  # after a digit these are seconds of arc
        text = re.sub(r"(?<![\d'])('{2,5})(?![\s'])(.*?)(?<![\d\s'])\1(?!')", r"\2", text)
    if "==" in text:
        text = re.sub(r"^\s*(={2,6})\s*(.*?)\s*\1\s*$", r"\2", text)
    return text


_CHARACTERS: dict[str, str] = {
    **dict.fromkeys("―–", "—"),
    **dict.fromkeys("‑‐", "-"),
    **dict.fromkeys("“„", "«"),
    "”": "»",
    **dict.fromkeys("\u00a0\u202f\u3000", " "),
    **{chr(code): " " for code in range(0x2000, 0x200B)},
    # Soft hyphens, marks of width zero and of direction, control characters.
    **dict.fromkeys("\u00ad\u2060\ufeff", ""),
    **{chr(code): "" for code in (*range(0x200B, 0x2010), *range(0x202A, 0x202F))},
    **{
        chr(code): "" for code in (*range(9), *range(0xE, 0x1C), *range(0x7F, 0xA0)) if code != 0x85
    },
}
_CHARACTERS_TABLE = str.maketrans(_CHARACTERS)
_TO_REPLACE = re.compile("[" + re.escape("".join(_CHARACTERS)) + "]")


def unify_typography(text: str) -> str:
    """One dash, one pair of quotation marks, one space, composed letters, nothing invisible."""
    if _TO_REPLACE.search(text):
        if "„" in text:  # here “ closes; elsewhere it opens
            text = re.sub(r"„([^„“”\n]*)[“”]", r"«\1»", text)
        text = text.translate(_CHARACTERS_TABLE)
    return unicodedata.normalize("NFC", text)


_STRESS_MARKS = re.compile("[ѐѝό\u0300\u0301]")
_STRESSED = re.compile("[ѐѝό]|(?<=[а-яА-ЯёЁ])[\u0300\u0301]+")
_STRESS = str.maketrans({"ѐ": "е", "ѝ": "и", "ό": "о", "\u0300": "", "\u0301": ""})


def drop_stress(text: str) -> str:
    """за́мок, чтό: the editor's stress marks go; French accents are composed and stay."""
    if not _STRESS_MARKS.search(text):
        return text
    return _STRESSED.sub(lambda match: match.group().translate(_STRESS), text)


_TO_CYRILLIC = str.maketrans("aceiopxyëABCEHKMOPTX", "асеіорхуёАВСЕНКМОРТХ")
_TO_LATIN = str.maketrans("асеіорхуАВСЕНКМОРТХІ", "aceiopxyABCEHKMOPTXI")
_LATIN = re.compile(r"[A-Za-zë]")
_MIXED_WORD = re.compile(
    r"(?=[А-Яа-яёЁіІ]*[A-Za-zë])(?=[A-Za-zë]*[А-Яа-яёЁіІ])[A-Za-zëА-Яа-яёЁіІ]+"
)
_LONE_LETTER = re.compile(r"(?:(?<=[а-яё,;:»] )[acoyAOCK]|^[AOCBKY])(?= [а-яё])")
_LONE = str.maketrans("acoyAOCBKY", "асоуАОСВКУ")


def mend_lookalikes(text: str) -> str:
    """Latin letters inside a Russian word become the Cyrillic ones they look like.

    «cказал», and «а» typed as Latin a between Russian words. The other way round in «XIV» and
    French words: the alphabet that has a letter without a double wins; if both do, or a letter
    has no double (an OCR slip), the word is left alone.
    """
    if not _LATIN.search(text):
        return text
    text = _MIXED_WORD.sub(lambda match: _mend_word(match.group()), text)
    return _LONE_LETTER.sub(lambda match: match.group().translate(_LONE), text)


def _mend_word(word: str) -> str:
    cyrillic = word.translate(_TO_CYRILLIC)
    if not _LATIN.search(cyrillic):
        return cyrillic
    latin = word.translate(_TO_LATIN)
    return word if re.search(r"[А-Яа-яёЁіІ]", latin) else latin


def mend_signs(text: str) -> str:
    """OCR's "68®20'" is 68°20', and «Ќ 29» is № 29."""
    if "®" in text:
        text = re.sub(r"(?<=\d)®(?=\d)", "°", text)
    return re.sub(r"Ќ(?= ?\d)", "№", text) if "Ќ" in text else text


def unify_dots(text: str) -> str:
    """ "…", ". . ." and "....." become "..."; after ? and ! two dots follow, as printed."""
    if "…" in text:
        text = text.replace("…", "...")
    if ". ." in text:
        text = re.sub(r"\.(?: \.){2,}", "...", text)
    if "..." not in text:
        return text
    return re.sub(r"(?<=[!?])\.{3,}", "..", re.sub(r"(?<![!?.])\.{4,}", "...", text))


def split_glued(text: str) -> str:
    """«* * *Наутро» is a break between scenes and a paragraph; *НАЗВАНИЕ* is a heading."""
    if "*" not in text:
        return text
    text = re.sub(r"^\*([^\s*][^*]*)\*$", r"\1", text.strip())
    return re.sub(r"^(\* \* \*|\*\*\*)\s*(?=[А-ЯЁA-Z«—])", r"\1\n", text)


def tidy_spaces(text: str) -> str:
    """One space between words, whatever kind of space it was, and none at the ends."""
    return " ".join(text.split())


STEPS: tuple[Step, ...] = (
    decode_entities,
    drop_tags,
    drop_wiki_markup,
    unify_typography,
    drop_stress,
    mend_lookalikes,
    mend_signs,
    split_glued,
    drop_note_lines,
    drop_curly_notes,
    drop_signed_notes,
    resolve_angle_brackets,
    resolve_square_brackets,
    drop_footnote_marks,
    unify_dots,
    tidy_spaces,
)


def clean_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield cleaned paragraphs, one a line, without the empty ones."""
    for line in lines:
        paragraph = clean_paragraph(line.rstrip("\r\n"))
        if "\n" in paragraph:
            yield from clean_lines(paragraph.split("\n"))
        elif paragraph:
            yield paragraph


_PLAIN = re.compile(r"(?![ \n])[а-яА-ЯёЁ ,.—!?:;«»-]*+(?<! )")
_UNTIDY_DOTS = re.compile(r"[!?]\.{3}|\.{4}")


def clean_paragraph(text: str) -> str:
    """Apply STEPS to one line until nothing changes; line breaks in the result ask for more."""
    while not is_plain(text):
        before = text
        for step in STEPS:
            text = step(text)
            if "\n" in text:
                return text
        if text == before:
            break
    return text


def is_plain(text: str) -> bool:
    """Whether no step would touch ``text``: most paragraphs, known by a look instead of sixteen."""
    return (
        _PLAIN.fullmatch(text) is not None
        and "  " not in text
        and not (".." in text and _UNTIDY_DOTS.search(text))
        and ". ." not in text
        and "римечан" not in text[:12].lower()
    )
