"""Tiny things the model tests share: a corpus of our own sentences, a recipe, a model.

The sentences imitate the old manner and were written for these tests; they quote nobody.
"""

import functools
import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from ml.gpt import CausalLM, gpt_config, new_gpt
from ml.tokenizer import train

EVENING = """\
Глава первая

В исходе октября приехал я на станцию, когда уже смеркалось. Смотритель, человек пожилой
и молчаливый, вышел ко мне со свечою и объявил, что лошадей не будет до утра.

— Помилуйте, — сказал я, — мне надобно быть в городе к полуночи.

— Воля ваша, сударь; а дорогу всю размыло, и ямщики мои не поедут ни за какие деньги.

Глава вторая

Делать было нечего; я велел подать самовар и стал рассматривать картины на стене. Одна
изображала сражение, другая — охоту с борзыми, на третьей нельзя было разобрать ничего.

За перегородкою кто-то пел вполголоса. Песня была старинная и печальная; «верно, дочь», —
подумал я и невольно заслушался. Вскоре всё утихло… Дождь стучал в ставни."""

LETTER = """\
Ты спрашиваешь, милый друг, как провожу я время в деревне? Встаю рано, хожу по полям,
бранюсь со старостою и читаю прошлогодние журналы. Соседи мои люди добрые, но скучные.

Вчера был у меня капитан в отставке; он рассказывал о походе и выпил всю наливку. Ещё одна
такая зима, и я, кажется, выучусь играть в шашки."""

MANOR = """\
I.

Старый дом стоял на горе, и окна его по вечерам горели от заходящего солнца. Хозяин умер
давно; наследники спорили, а сад между тем глох и зарастал крапивою.

II.

Однажды весною приехал из полка молодой поручик, велел отпереть ставни и поселился один.
Дворня шепталась: «Барин-то наш грустен!» Никто не знал причины его печали."""

ROAD = """\
Кибитка наша остановилась посреди степи. Метель поднялась такая, что ямщик не видал своих
лошадей. «Сбились, барин», — сказал он спокойно и снял шапку.

Я вылез и пошёл вперёд, щупая снег палкою. Через полчаса послышался лай; мы поворотили на
него и скоро увидели огонёк. То была мельница. Мельник отворил не вдруг, долго спрашивал,
кто мы таковы, и наконец впустил нас в тёплую избу.

Хозяйка подала щей и постелила нам на лавках. Поутру небо очистилось; мы поблагодарили
добрых людей и отправились далее."""

VERSES = """\
Снежок летит, синеет вечер,
И никого на берегу."""

NOTES = """\
Сведения сии получены сочинителем от уездного казначея и напечатаны без перемены."""

# file, author, title, genre, text
WORKS = [
    ("belov/vecher.txt", "И. Белов", "Вечер на станции", "prose", EVENING),
    ("belov/pismo.txt", "И. Белов", "Письмо из деревни", "prose", LETTER),
    ("belov/usadba.txt", "И. Белов", "Старая усадьба", "prose", MANOR),
    ("belov/stikhi.txt", "И. Белов", "Вечерние стихи", "verse", VERSES),
    ("gorsky/doroga.txt", "П. Горский", "Дорога", "nonfiction", ROAD),
    ("gorsky/zametki.txt", "П. Горский", "Заметки к «Дороге»", "nonfiction", NOTES),
]
SPLIT = {"validation": ["belov/pismo.txt"], "test": ["belov/usadba.txt"]}
RECIPE: dict[str, Any] = {
    "name": "toy",
    "seed": 7,
    "vocabulary": 300,
    "model": {"context": 16, "width": 16, "layers": 2, "heads": 2},
    "groups": {"own": ["belov"], "others": ["gorsky"]},
    "leave_out": ["gorsky/zametki.txt"],
    "stages": [
        {"end": 0.5, "weights": {"own": 0.5, "others": 0.5}},
        {"end": 1.0, "weights": {"own": 1.0}},
    ],
    "training": {
        "steps": 6,
        "batch": 2,
        "length": 16,
        "muon_rate": 0.01,
        "adam_rate": 0.01,
        "weight_decay": 0.1,
        "warmup": 0.2,
        "decay": 0.4,
        "clip": 1.0,
        "validate_every": 2,
        "precision": "fp32",
        "compile": False,
    },
}


def write_corpus(folder: Path) -> Path:
    """Write the texts and their table, and return the folder."""
    rows = ["file\tauthor\ttitle\tgenre"]
    for file, author, title, genre, text in WORKS:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text + "\n", "utf-8")
        rows.append(f"{file}\t{author}\t{title}\t{genre}")
    (folder / "SOURCES.tsv").write_text("\n".join(rows) + "\n", "utf-8")
    return folder


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    return path


@functools.cache
def toy_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 300 tokens over the toy corpus; take care not to change it."""
    return train([text for *_, text in WORKS], vocabulary=300)


class Letters:
    """A tokenizer of one token a character, so that a test can count tokens; 0 ends a text."""

    eos_token_id = 0

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def encode(self, text: str) -> list[int]:
        return [1 + ord(character) % (self.vocabulary - 1) for character in text]


def toy_model(vocabulary: int, *, context: int = 16, seed: int = 0, sharpen: float = 1) -> CausalLM:
    """A model of 2 layers, width 16; ``sharpen`` makes a fresh one far from uniform."""
    config = gpt_config(vocabulary=vocabulary, context=context, width=16, layers=2, heads=2)
    model = new_gpt(config, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(sharpen)
    return model
