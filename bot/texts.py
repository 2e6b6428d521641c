"""Everything a reader sees, in Russian and in English."""

from dataclasses import dataclass

LIKE, DISLIKE, CHOSEN = "👍", "👎", "✓"


@dataclass(frozen=True)
class Texts:
    """One language; the fields in braces are filled in by ``str.format``."""

    language: str
    start: str
    speaks: str  # {name} {size}
    speaks_small: str  # {name} {size}
    size: str  # {millions}
    speaks_nobody: str
    help: str  # {limit}
    no_limit: str  # the limit's words before any model has been loaded
    limit: str  # {characters}
    empty_story: str
    too_long: str  # {length} {limit}
    too_many_tokens: str  # {tokens} {limit}
    queued: str  # {place}
    queued_next: str
    writing: str
    stop: str
    stopped: str
    failed: str
    text_only: str
    unknown_command: str
    trouble: str
    thanks: str
    sorry: str
    stopping: str
    too_late: str
    not_yours: str
    gone: str
    old_button: str
    ask_consent: str
    consent_yes: str
    consent_no: str
    not_your_question: str
    agreed: str
    refused: str
    privacy: str  # {consent}
    privacy_yes: str
    privacy_no: str
    command_privacy: str
    command_story: str
    console: str  # the first words in a terminal
    command_help: str
    command_start: str


RU = Texts(
    language="ru",
    start=(
        "Здравствуйте! Пришлите начало — фразу, строчку, полслова, — и я продолжу его прозой "
        "в духе Пушкина.\n\n"
        "Например: /story Мороз и солнце\n\n"
        "{speaks}"
    ),
    speaks="Сейчас пишет модель {name}{size}.",
    speaks_small=(
        "Сейчас пишет {name}{size} — маленькая модель: слог она держит, нить рассказа то и дело "
        "теряет."
    ),
    size=" ({millions} млн параметров)",
    speaks_nobody="Модель ещё не запускалась: история начнётся, как только она проснётся.",
    help=(
        "/story и начало — напишу продолжение. В личном чате достаточно прислать само начало.\n\n"
        "Ответьте на мою историю — продолжу её дальше; с вашими словами, если они есть.\n\n"
        "Под историей 👍 и 👎: ваш голос сохраняется, и его можно переменить. "
        "Что ещё я храню — /privacy\n\n"
        "Пока история пишется, её можно остановить; написанное останется.\n\n"
        "{limit}"
    ),
    no_limit="Начало может быть любым текстом.",
    limit="Начало — до {characters} знаков.",
    empty_story=("Напишите начало после команды, и я продолжу. Например:\n\n/story Мороз и солнце"),
    too_long=(
        "Начало слишком длинно. Знаков в нём: {length}, а модель читает не больше {limit}. "
        "Сократите его, пожалуйста: сам я ничего не отрежу."
    ),
    too_many_tokens=(
        "Начало слишком длинно. Токенов в нём: {tokens}, а модель читает не больше {limit}. "
        "Сократите его, пожалуйста: сам я ничего не отрежу."
    ),
    queued="⏳ Вы {place}-й в очереди.",
    queued_next="⏳ Ваша история следующая.",
    writing="✍️ Пишу…",
    stop="Остановить",
    stopped="⏹ Остановлено.",
    failed="Увы, история не сложилась: модель сбилась. Попробуйте, пожалуйста, ещё раз.",
    text_only="Я читаю только текст. Пришлите начало словами, и я продолжу.",
    unknown_command="Такой команды я не знаю. Что я умею — /help",
    trouble="Что-то у меня сломалось, и я это записал. Попробуйте, пожалуйста, чуть позже.",
    thanks="Благодарю!",
    sorry="Учту. Благодарю!",
    stopping="Останавливаю.",
    too_late="История уже закончена.",
    not_yours="Это не ваша история.",
    gone="Этой истории у меня больше нет.",
    old_button="Эта кнопка больше не действует.",
    ask_consent=(
        "Можно ли учить модель на ваших голосах и историях? Без согласия этого не будет; "
        "переменить его можно в любое время: /privacy"
    ),
    consent_yes="Разрешаю",
    consent_no="Не разрешаю",
    not_your_question="Этот вопрос не к вам.",
    agreed="Благодарю! Ваши голоса и истории помогут модели учиться. Переменить: /privacy",
    refused="Хорошо: модель не будет учиться на ваших голосах и историях. Переменить: /privacy",
    privacy=(
        "Что я храню: ваш номер в Telegram и язык, номера чатов и сообщений с историями, ваши "
        "начала, мои продолжения, ваши голоса и время всего этого. Имени, телефона и прочей "
        "переписки не храню.\n\n{consent}"
    ),
    privacy_yes="Вы разрешили учить модель на ваших голосах и историях.",
    privacy_no="Модель не учится на ваших голосах и историях: вашего согласия нет.",
    command_privacy="что я храню",
    command_story="продолжить начало в духе Пушкина",
    console=(
        "neuroPushkin в терминале. Напишите начало или /story и начало; номер нажимает кнопку, "
        "> продолжает последнюю историю, /help рассказывает больше, /quit выходит."
    ),
    command_help="что я умею",
    command_start="познакомиться",
)

EN = Texts(
    language="en",
    start=(
        "Hello! Send me an opening in Russian — a phrase, a line, half a word — and I will go on "
        "in the manner of Pushkin's prose.\n\n"
        "For example: /story Мороз и солнце\n\n"
        "{speaks}"
    ),
    speaks="The model that writes now: {name}{size}.",
    speaks_small=(
        "The model that writes now is {name}{size}, a small one: it keeps the style and often "
        "loses the thread."
    ),
    size=" ({millions} million parameters)",
    speaks_nobody="No model has been started yet: your story begins as soon as it wakes.",
    help=(
        "/story and an opening: I write what follows. In a private chat the opening alone "
        "is enough.\n\n"
        "Reply to a story of mine and I go on with it, using your words if there are any.\n\n"
        "👍 and 👎 under a story: your vote is kept, and you can change it. "
        "What else I keep: /privacy\n\n"
        "While a story is being written you can stop it; what is written stays.\n\n"
        "{limit}"
    ),
    no_limit="The opening may be any text.",
    limit="An opening has at most {characters} characters.",
    empty_story="Write an opening after the command. For example:\n\n/story Мороз и солнце",
    too_long=(
        "This opening is too long: {length} characters, and the model reads at most {limit}. "
        "Please shorten it: I will not cut it behind your back."
    ),
    too_many_tokens=(
        "This opening is too long: {tokens} tokens to the model, which reads at most {limit}. "
        "Please shorten it: I will not cut it behind your back."
    ),
    queued="⏳ You are number {place} in the queue.",
    queued_next="⏳ Your story is next.",
    writing="✍️ Writing…",
    stop="Stop",
    stopped="⏹ Stopped.",
    failed="Alas, no story came of it: the model stumbled. Please try once more.",
    text_only="I read text only. Send me an opening in words and I will go on.",
    unknown_command="I do not know this command. What I can do: /help",
    trouble="Something broke on my side, and I made a note of it. Please try a little later.",
    thanks="Thank you!",
    sorry="Noted. Thank you!",
    stopping="Stopping.",
    too_late="The story is finished already.",
    not_yours="This is not your story.",
    gone="I do not have this story any more.",
    old_button="This button no longer works.",
    ask_consent=(
        "May the model learn from your votes and stories? It will not without your consent, "
        "which you can change at any time: /privacy"
    ),
    consent_yes="I agree",
    consent_no="I do not agree",
    not_your_question="This question is not for you.",
    agreed="Thank you! Your votes and stories will help the model learn. To change this: /privacy",
    refused="All right: the model will not learn from your votes and stories. /privacy changes it.",
    privacy=(
        "What I keep: your number in Telegram and your language, the numbers of the chats and "
        "messages with stories, your openings, my continuations, your votes, and when all this "
        "was. Your name, your phone and other messages are not kept.\n\n{consent}"
    ),
    privacy_yes="You have agreed that the model learns from your votes and stories.",
    privacy_no="The model does not learn from your votes and stories: you have not agreed.",
    command_privacy="what I keep",
    command_story="continue an opening in Pushkin's manner",
    console=(
        "neuroPushkin in a terminal. Write an opening in Russian, or /story and an opening; a "
        "number presses a button, > continues the last story, /help tells more, /quit leaves."
    ),
    command_help="what I can do",
    command_start="get to know me",
)


def texts_for(language_code: str | None) -> Texts:
    """Return Russian for Telegram's ``ru`` and ``ru-RU``, English for everybody else."""
    return RU if (language_code or "").lower().split("-")[0] == "ru" else EN
