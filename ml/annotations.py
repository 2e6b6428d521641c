"""What editors added to a text: footnotes, their marks, page numbers, brackets.

Steps of ml.cleaning, str -> str over one paragraph; each leaves a text without such signs alone.
What is dropped and what stays was settled by reading every kind of bracket in the corpus.
"""

import re

# A footnote: its body stands where the printed page ended, a line of its own.
_NOTE_LINE = re.compile(
    r"\s*(?:↑.*|\[\*?\d*\].*|\(\*\d+\).*|\*(?:\*(?:\*{2,})?)? ?[А-ЯЁA-Z][^*]*|"
    r"примечани[ея] (?:редак|перев).*|примечания? \(?\d.*)",
    re.I,
)
_CAPITAL_NOTE = re.compile(r"\s*\*+ ?[А-ЯЁA-Z«]")
_PAGE_LINE = re.compile(
    r"\s*(?:[<\[{—-]+ ?(?:с\.|стр\.)? ?\d{1,4} ?[>\]}—-]+|~~\d+|(?:с|стр)\. ?\d{1,4}\.?)\s*",
    re.I,
)


def drop_note_lines(text: str) -> str:
    """A paragraph that is a footnote's body or a page's number goes whole."""
    head = text.lstrip()[:1]
    if head not in _NOTE_HEADS:
        return text
    if _PAGE_LINE.fullmatch(text):
        return ""
    if head == "*" and not _CAPITAL_NOTE.match(text):  # «** скоро удостоверился»: a name hidden
        return text
    return "" if _NOTE_LINE.fullmatch(text) else text


_NOTE_HEADS = frozenset("↑[(*<{—-~пПсС")


_SIGNED_NOTE = re.compile(
    r"\s*\((?!см\.)(?:[^()]*\b)?(?:прим|примеч)\.(?: [^()]*)?\)|"
    r"\s*\(примечани[ея] (?:редак|изда|автор|перев)[^()]*\)|"
    r"\s*\((?:[^()]*[—.] ?)?(?:ред|изд|перев)\.(?: [^()]{0,20})?\)",
    re.I,
)


def drop_signed_notes(text: str) -> str:
    """(Прим. ред.), (староста. — Прим. автора.), (Изд.); but (см. прим. 2) is the author's."""
    return _SIGNED_NOTE.sub("", text) if "(" in text else text


# «(перс.)», «(от фр. petit verre)», «— лат.» at a note's end.
_IS_TRANSLATION = re.compile(
    r"(?:\(|— )(?:[^()]*\s)?(?:от\.? ?)?"
    r"(?:лат|фр|франц|нем|англ|ит|итал|исп|пол|польск|перс|араб|греч|дат|тат|тур)\b[^()]*\)?\W*$"
)
_AFTER_LATIN = re.compile(r"[A-Za-zÀ-ÿ][^А-Яа-яёЁ]*$")
_SQUARE = re.compile(r"(\s*)\*?\[([^\[\]]*)\]")
_ANGLE = re.compile(r"(\s*)[<‹]+([^<>‹›]*)[>›]+")


def _close_gap(match: re.Match[str]) -> str:
    """What stays of a note: the space before it, unless a space or a sign follows."""
    after = match.string[match.end() : match.end() + 1]
    return match.group(1) if after.isalnum() or after in "«(" else ""


def resolve_angle_brackets(text: str) -> str:
    """Editors' <…>: г<осподин> is completed, <?> and <<12>> go, <...> and <-> are ellipses."""
    if "<" not in text and "‹" not in text:
        return text
    return _ANGLE.sub(_resolve_angle, text)


def _resolve_angle(match: re.Match[str]) -> str:
    space, inner = match.groups()
    if "..." in inner or "…" in inner or (inner.strip() and not inner.strip("-—– ")):
        return f"{space}..."
    if not any(letter.isalpha() for letter in inner) or inner.lower().startswith("нрзб"):
        return _close_gap(match)
    return _close_gap(match) if _IS_TRANSLATION.search(inner) else space + inner


def resolve_square_brackets(text: str) -> str:
    """[1], [*] and notes go: a translation of the French before it, a remark in mid-sentence.

    Stays, without the brackets: a word an editor supplied («мне [остаться] хотя», «в[шах]»),
    a bracketed beginning or whole line (a heading, a verse the author crossed out).
    """
    if "[" not in text:
        return text
    return _SQUARE.sub(_resolve_square, text)


def _resolve_square(match: re.Match[str]) -> str:
    space, inner = match.group(1), match.group(2).strip()
    before = match.string[: match.start()]
    if not any(letter.isalpha() for letter in inner) or re.match(r"(?:с|стр)\. ?\d", inner):
        return _close_gap(match)
    if "*[" in match.group() or _IS_TRANSLATION.search(inner):
        return _close_gap(match)
    if not before.strip() or (not space and before[-1].isalpha()):
        return space + inner
    foreign = _AFTER_LATIN.search(before[-40:]) or re.search(r"[A-Za-z]", inner)
    return _close_gap(match) if foreign or not inner[0].islower() else space + inner


_CURLY = re.compile(r"\s*\*?\{[^{}]*\}")


def drop_curly_notes(text: str) -> str:
    """{Прим. стр. 71}, {Полярная звезда.}, {{wiki template}}: an edition's notes in the text."""
    return _CURLY.sub("", text) if "{" in text else text


_NUMBER_MARK = re.compile(
    r"(?<=[а-яё.,!?;:»…])\(\*?\d{1,3}\)|\(\*\d{1,3}\)|(?<=[а-яё»]) \(\d{1,3}\)(?=[.,;:!?»…]|$)"
)
_STAR_MARK = re.compile(r"([а-яё]{4,}|[.,!?»])(?:\*|\*{4,6})(?![\w*])", re.I)
_NAMELESS = re.compile(
    r"(?:княг|княз|граф|барон|стан|сел[аоеу]|дерев|город|губер|поместь|госп)", re.I
)


def drop_footnote_marks(text: str) -> str:
    """«ремесла(1).», «медленно(*116)», «дженнете*!»; two and three asterisks hide names."""
    if "(" in text:
        text = _NUMBER_MARK.sub("", text)
    return _STAR_MARK.sub(_drop_stars, text) if "*" in text else text


def _drop_stars(match: re.Match[str]) -> str:
    return match.group() if _NAMELESS.match(match.group(1)) else match.group(1)
