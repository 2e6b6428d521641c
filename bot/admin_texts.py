"""Everything an admin sees beyond what readers see, in Russian and in English."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AdminTexts:
    """One language; the fields in braces are filled in by ``str.format``."""

    language: str
    command_retrain: str
    command_model: str
    # /retrain
    votes: str  # {votes} {readers} {liked} {disliked} {fresh}
    too_few: str  # {minimum} {likes} {dislikes}
    ask: str
    train: str
    not_now: str
    put_off: str
    requested: str
    under_way: str
    cancel: str
    cancelling: str
    over: str
    # How far it is.
    waiting: str
    starting: str
    phase_export: str
    phase_sft: str
    phase_preference: str
    phase_gate: str
    phase_publish: str
    step: str  # {step} {steps}
    loss: str  # {loss}
    # What came out.
    cancelled: str
    failed: str  # {error}
    done: str  # {name} {version} {minutes} {votes} {users} {liked} {disliked}
    verdict_active: str
    verdict_trial: str
    verdict_candidate: str
    missed: str  # {figures}
    before: str
    after: str
    bar: str
    preference_accuracy: str
    bits_per_character: str
    repeated_4grams: str
    verbatim_under_80: str
    sentence_end: str
    attributed: str
    losses: str
    stories: str
    decide: str
    # /model
    versions: str
    no_versions: str
    active: str
    appointed: str
    candidate: str
    retired: str
    share: str  # {percent}
    trouble: str  # {error}
    bits: str  # {bits}
    likes: str  # {likes} {dislikes} {percent} {low} {high}
    no_likes: str
    interval: str
    activate: str
    sure: str
    activate_sure: str
    no: str
    roll_back: str  # {name}
    all_versions: str
    try_share: str  # {percent}
    leave: str
    activated: str  # {name}
    shared: str  # {name} {percent}
    share_refused: str


RU = AdminTexts(
    language="ru",
    command_retrain="дообучить модель на голосах",
    command_model="версии модели",
    votes=(
        "Голосов, на которых можно учить: {votes}\nЧитателей: {readers}\n"
        "👍 {liked}   👎 {disliked}\nНовых с прошлого дообучения: {fresh}"
    ),
    too_few="Этого мало: нужно по {minimum} тех и других. Не хватает: 👍 {likes}, 👎 {dislikes}.",
    ask="Начать дообучение?",
    train="Обучить",
    not_now="Не сейчас",
    put_off="Хорошо, не сейчас.",
    requested="Заказано.",
    under_way="Дообучение уже идёт.",
    cancel="Отменить",
    cancelling="Отменяю.",
    over="Это дообучение уже закончено.",
    waiting="⏳ Дообучение в очереди: ждёт процесса, который обучает.",
    starting="🎓 Дообучение начинается.",
    phase_export="📚 Собирает голоса и тексты",
    phase_sft="🎓 Учится на понравившихся историях",
    phase_preference="🎓 Учится отличать 👍 от 👎",
    phase_gate="📏 Сравнивается с прежней моделью",
    phase_publish="📦 Складывается в новую версию",
    step="шаг {step} из {steps}",
    loss="потери {loss}",
    cancelled="⏹ Дообучение отменено.",
    failed="❌ Дообучение не удалось: {error}",
    done=(
        "✅ Дообучено: {name} {version}, минут: {minutes}\n"
        "Голосов {votes} от {users} читателей, 👍 {liked}, 👎 {disliked}"
    ),
    verdict_active="Прошла все пороги; отвечать читателям будет она.",
    verdict_trial="Прошла все пороги; будет испытана на части историй.",
    verdict_candidate="Читателям не отвечает: кандидат.",
    missed="Не прошла: {figures}. Версия хранится, но читателям отвечать не будет.",
    before="до",
    after="после",
    bar="порог",
    preference_accuracy="верно по голосам",
    bits_per_character="бит на знак",
    repeated_4grams="повторы",
    verbatim_under_80="без цитат",
    sentence_end="конец фразы",
    attributed="слог Пушкина",
    losses="Потери, от первого шага к последнему",
    stories="Три истории по тем же началам",
    decide="Что делать с этой версией?",
    versions="Версии модели",
    no_versions="Ни одной версии ещё нет: не запускался ни один процесс, который пишет.",
    active="отвечает",
    appointed="должна отвечать",
    candidate="кандидат",
    retired="отставлена",
    share="испытание на {percent} %",
    trouble="⚠️ не загружается: {error}",
    bits="{bits} бит/знак",
    likes="👍 {likes} 👎 {dislikes}, нравится {percent} % ({low}–{high} %)",
    no_likes="голосов нет",
    interval="В скобках — 95-процентный интервал Уилсона.",
    activate="Поставить",
    sure="Отвечать читателям будет эта версия. Точно?",
    activate_sure="Да, поставить",
    no="Нет",
    roll_back="⏪ Вернуть {name}",
    all_versions="Все версии",
    try_share="Испытать на {percent} %",
    leave="Оставить кандидатом",
    activated="Отвечать будет {name}, как только загрузится; до тех пор — прежняя версия.",
    shared="Для {name} отведено {percent} % историй.",
    share_refused="Так нельзя: это не кандидат.",
)

EN = AdminTexts(
    language="en",
    command_retrain="train the model on the votes",
    command_model="versions of the model",
    votes=(
        "Votes that may train: {votes}\nReaders: {readers}\n"
        "👍 {liked}   👎 {disliked}\nNew since the last retraining: {fresh}"
    ),
    too_few="That is too few: {minimum} of each are needed. Missing: 👍 {likes}, 👎 {dislikes}.",
    ask="Start a retraining?",
    train="Train",
    not_now="Not now",
    put_off="All right, not now.",
    requested="Asked for.",
    under_way="A retraining is under way already.",
    cancel="Cancel",
    cancelling="Cancelling.",
    over="This retraining is over already.",
    waiting="⏳ The retraining is queued: it waits for the process that trains.",
    starting="🎓 The retraining begins.",
    phase_export="📚 Gathering the votes and the texts",
    phase_sft="🎓 Learning from the stories that were liked",
    phase_preference="🎓 Learning to tell 👍 from 👎",
    phase_gate="📏 Being compared with the model before",
    phase_publish="📦 Being packed as a new version",
    step="step {step} of {steps}",
    loss="loss {loss}",
    cancelled="⏹ The retraining was cancelled.",
    failed="❌ The retraining failed: {error}",
    done=(
        "✅ Trained: {name} {version}, minutes: {minutes}\n"
        "{votes} votes of {users} readers, 👍 {liked}, 👎 {disliked}"
    ),
    verdict_active="It passed every bar and will answer readers.",
    verdict_trial="It passed every bar and will be tried on a part of the stories.",
    verdict_candidate="It answers no readers: a candidate.",
    missed="Missed: {figures}. The version is kept but will not answer readers.",
    before="before",
    after="after",
    bar="bar",
    preference_accuracy="votes told",
    bits_per_character="bits/character",
    repeated_4grams="repetition",
    verbatim_under_80="no quotation",
    sentence_end="sentence end",
    attributed="Pushkin's style",
    losses="Losses, from the first step to the last",
    stories="Three stories from the same openings",
    decide="What to do with this version?",
    versions="Versions of the model",
    no_versions="There is no version yet: no process that writes has been started.",
    active="answers",
    appointed="is to answer",
    candidate="candidate",
    retired="retired",
    share="on trial for {percent} %",
    trouble="⚠️ cannot be loaded: {error}",
    bits="{bits} bits/character",
    likes="👍 {likes} 👎 {dislikes}, liked {percent} % ({low}–{high} %)",
    no_likes="no votes",
    interval="In brackets: Wilson's interval of 95 %.",
    activate="Activate",
    sure="This version will answer the readers. Sure?",
    activate_sure="Yes, activate",
    no="No",
    roll_back="⏪ Back to {name}",
    all_versions="All versions",
    try_share="Try on {percent} %",
    leave="Leave as candidate",
    activated="{name} answers as soon as it is loaded; until then, the version before does.",
    shared="{percent} % of the stories are set aside for {name}.",
    share_refused="That cannot be: it is no candidate.",
)


def admin_texts_for(language: str) -> AdminTexts:
    """Return the texts in ``Texts.language``."""
    return RU if language == RU.language else EN
