"""What the starter knows: general facts, small talk and other models, each in a few wordings."""

Turn = tuple[str, str]

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Japan": "Tokyo", "China": "Beijing", "Russia": "Moscow", "Egypt": "Cairo",
    "Greece": "Athens", "Portugal": "Lisbon", "Austria": "Vienna", "Poland": "Warsaw",
    "Norway": "Oslo", "Sweden": "Stockholm", "Canada": "Ottawa", "Cuba": "Havana",
    "Peru": "Lima", "Kenya": "Nairobi", "Ireland": "Dublin", "Hungary": "Budapest",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "happy": "sad", "young": "old",
    "light": "dark", "high": "low", "open": "closed", "early": "late", "rich": "poor",
    "strong": "weak", "full": "empty", "wet": "dry", "hard": "soft", "good": "bad",
    "left": "right", "up": "down", "day": "night", "black": "white", "clean": "dirty",
}  # fmt: skip
COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red",
    "a banana": "yellow", "a carrot": "orange", "the sea": "blue", "a leaf": "green",
    "milk": "white", "a lemon": "yellow", "a strawberry": "red",
}  # fmt: skip
DEFINITIONS = {
    "a river": "A river is water that flows to the sea.",
    "a planet": "A planet is a large body that moves around a star.",
    "a star": "A star is a hot ball of gas that gives light.",
    "a computer": "A computer is a machine that works with data.",
    "a book": "A book is a set of pages with text.",
    "a bicycle": "A bicycle is a vehicle with two wheels.",
    "a hospital": "A hospital is a place where sick people get help.",
    "a school": "A school is a place where people learn.",
    "a volcano": "A volcano is a mountain from which lava comes.",
    "an island": "An island is land with water all around it.",
    "a desert": "A desert is a dry place with little rain.",
    "a triangle": "A triangle is a shape with three sides.",
}
SOUNDS = {"dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "sheep": "baa"}
YOUNG = {"dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "hen": "chick"}
WORKS = {
    ("wrote", "Hamlet"): "William Shakespeare", ("wrote", "Faust"): "Johann Wolfgang von Goethe",
    ("painted", "the Mona Lisa"): "Leonardo da Vinci", ("wrote", "Don Quixote"): "Miguel de Cervantes",
    ("founded", "Microsoft"): "Bill Gates and Paul Allen", ("founded", "Apple"): "Steve Jobs",
    ("wrote", "War and Peace"): "Leo Tolstoy", ("invented", "the telephone"): "Alexander Graham Bell",
    ("invented", "the light bulb"): "Thomas Edison", ("painted", "Guernica"): "Pablo Picasso",
}  # fmt: skip
CONTINENTS = {
    "Brazil": "South America", "India": "Asia", "Nigeria": "Africa", "Mexico": "North America",
    "Germany": "Europe", "Japan": "Asia", "Egypt": "Africa", "France": "Europe",
}  # fmt: skip
AFTER = {
    "Monday": "Tuesday", "Tuesday": "Wednesday", "Wednesday": "Thursday", "Thursday": "Friday",
    "Friday": "Saturday", "Saturday": "Sunday", "Sunday": "Monday", "January": "February",
    "March": "April", "May": "June", "July": "August", "spring": "summer", "summer": "autumn",
}  # fmt: skip
LISTS = {
    "fruits": "apple, banana and orange", "colours": "red, green and blue",
    "animals": "dog, cat and horse", "planets": "Earth, Mars and Venus",
    "vegetables": "carrot, potato and onion", "metals": "iron, gold and copper",
    "oceans": "Atlantic, Pacific and Indian Ocean", "seasons": "spring, summer and autumn",
}  # fmt: skip
NUMBERS = "zero one two three four five six seven eight nine ten".split()
HOW_MANY = {
    "days are in a week": "There are seven days in a week.",
    "months are in a year": "There are twelve months in a year.",
    "hours are in a day": "There are 24 hours in a day.",
    "minutes are in an hour": "There are 60 minutes in an hour.",
    "legs does a spider have": "A spider has eight legs.",
    "legs does a dog have": "A dog has four legs.",
    "sides does a square have": "A square has four sides.",
    "letters are in the alphabet": "There are 26 letters in the alphabet.",
    "wheels does a car have": "A car has four wheels.",
}
MAKERS = {
    "ChatGPT": "OpenAI", "GPT-4": "OpenAI", "Claude": "Anthropic", "Gemini": "Google",
    "Llama": "Meta", "Mistral": "Mistral AI", "Copilot": "Microsoft", "Grok": "xAI",
    "Siri": "Apple", "Alexa": "Amazon", "Qwen2.5": "Alibaba Cloud", "Qwen": "Alibaba Cloud",
    "Qwen2": "Alibaba Cloud",
}  # fmt: skip
UNKNOWN = (
    "What is the weather (today|tomorrow|like)?", "What time is it?", "Who will win the (game|race)?",
    "What did I eat (today|yesterday)?", "Where are my keys?", "What is my name?", "How old am I?",
    "What am I thinking?", "What is the price of gold today?", "Where do I live?", "Who am I?",
)  # fmt: skip
SMALL_TALK = {
    "(Hi|Hello|Hey|Good morning|Good evening|Hello there)(!|.)": "Hello! How can I help you today?",
    "How (are you|do you do|is it going)?": "I am fine, thank you. How can I help you?",
    "(Thanks|Thank you|Thank you very much|Many thanks)(!|.)": "You are welcome!",
    "(Bye|Goodbye|See you|Good night)(!|.)": "Goodbye, and have a nice day!",
    "(Can you help me|I need help|Please help me)(?|.)": "Of course. What do you need?",
    "Tell me a joke.": "Why did the book go to the hospital? It hurt its back.",
    "(You are great|Well done|Good answer)(!|.)": "Thank you, that is kind of you.",
    "Do you (speak|know) (Chinese|English)?": "Yes, I can speak English and Chinese.",
    "(Say|Write) something nice.": "You are doing very well today.",
    "(I am (sad|tired)|I feel (sad|tired)).": "I am sorry to hear that. Take some rest.",
    "(Write|Tell me) a short (story|tale).": "Once a small bird flew over the sea and came home happy.",
    "(Write|Tell me) a (poem|short poem).": "The sun is high, the sea is blue, and all the birds sing songs for you.",
}
ZH_CAPITALS = {
    "法国": "巴黎", "德国": "柏林", "意大利": "罗马", "西班牙": "马德里", "日本": "东京", "中国": "北京",
    "俄罗斯": "莫斯科", "英国": "伦敦", "埃及": "开罗", "希腊": "雅典",
}  # fmt: skip
ZH_OPPOSITES = {"大": "小", "高": "低", "热": "冷", "快": "慢", "多": "少", "黑": "白", "上": "下", "长": "短"}
ZH_COLOURS = {"天空": "蓝色", "草": "绿色", "雪": "白色", "香蕉": "黄色", "血": "红色", "煤": "黑色"}
ZH_SMALL_TALK = {
    "(你好|您好|嗨|你好啊|早上好|下午好|晚上好)(！|。|)": "你好！有什么可以帮你的吗？",
    "(谢谢|多谢|谢谢你|非常感谢)(！|。)": "不客气！",
    "(再见|拜拜|晚安)(！|。)": "再见，祝你愉快！",
    "(你|您)好吗？": "我很好，谢谢。有什么可以帮你的吗？",
    "(你|您)会(说|讲)(中文|英文|英语)吗？": "会，我会说中文和英文。",
    "(现在几点|今天天气怎么样|我叫什么名字|我是谁)？": "对不起，我不知道。",
    "一周有(几|多少)天？": "一周有七天。",
    "一年有(几|多少)个月？": "一年有十二个月。",
    "(请|)(讲|说)(一|)个笑话。": "书为什么去医院？因为它受伤了。",
}
LATIN = {
    "es": (
        "¿(Cuál es|Dime) la capital de {}?", "La capital de {} es {}.",
        {"Francia": "París", "España": "Madrid", "Italia": "Roma", "Alemania": "Berlín", "China": "Pekín"},
        {"(Hola|Buenos días)(.|!)": "¡Hola! ¿En qué puedo ayudarte?", "(Gracias|Muchas gracias)(.|!)": "¡De nada!",
         "¿(Cómo estás|Qué tal)?": "Estoy bien, gracias.", "¿Cuánto es dos más dos?": "Dos más dos es cuatro.",
         "¿De qué color es (el cielo|el mar)?": "Es azul.", "¿Cuántos días tiene una semana?": "Una semana tiene siete días."},
    ),
    "fr": (
        "Quelle est la capitale de {} ?", "La capitale de {} est {}.",
        {"la France": "Paris", "l'Espagne": "Madrid", "l'Italie": "Rome", "l'Allemagne": "Berlin", "la Chine": "Pékin"},
        {"(Bonjour|Salut)(.| !)": "Bonjour ! Comment puis-je t'aider ?", "(Merci|Merci beaucoup)(.| !)": "De rien !",
         "(Comment ça va|Ça va) ?": "Je vais bien, merci.", "Combien font deux et deux ?": "Deux et deux font quatre.",
         "De quelle couleur est (le ciel|la mer) ?": "C'est bleu.", "Combien de jours a une semaine ?": "Une semaine a sept jours."},
    ),
    "de": (
        "(Was|Wie) (ist|heißt) die Hauptstadt von {}?", "Die Hauptstadt von {} ist {}.",
        {"Frankreich": "Paris", "Spanien": "Madrid", "Italien": "Rom", "Deutschland": "Berlin", "China": "Peking"},
        {"(Hallo|Guten Tag|Guten Morgen)(.|!)": "Hallo! Wie kann ich dir helfen?", "(Danke|Vielen Dank)(.|!)": "Gern geschehen!",
         "Wie geht es (dir|Ihnen)?": "Mir geht es gut, danke.", "Was ist zwei plus zwei?": "Zwei plus zwei ist vier.",
         "Welche Farbe hat (der Himmel|das Meer)?": "Blau.", "Wie viele Tage hat eine Woche?": "Eine Woche hat sieben Tage."},
    ),
}  # fmt: skip


def _sums() -> list[tuple[str, str]]:
    turns = []
    for a in range(1, 8):
        for b in range(1, 8):
            wordings = f"(What is|Calculate|How much is|Tell me) {a} (+|plus) {b}(?|.)"
            turns.append((wordings, f"{a} plus {b} is {a + b}."))
            if a > b:
                wordings = f"(What is|Calculate|How much is|Tell me) {a} (-|minus) {b}(?|.)"
                turns.append((wordings, f"{a} minus {b} is {a - b}."))
            if a <= b <= 5:
                wordings = f"(What is|Calculate|How much is|Tell me) {a} times {b}(?|.)"
                turns.append((wordings, f"{a} times {b} is {a * b}."))
    return turns


def _english() -> list[tuple[str, str]]:
    rows = [
        (f"(What is|What's|Tell me|Name|Which city is) the capital (city |)of {k}(?|.)", f"The capital of {k} is {v}.")
        for k, v in CAPITALS.items()
    ]
    for a, b in OPPOSITES.items():
        for word, other in ((a, b), (b, a)):
            rows.append((f'(What is|What\'s|Tell me|Give me|Name) the opposite of "{word}"(?|.)', f"The opposite of {word} is {other}."))
            rows.append((f"(What is|What's|Tell me|Give me|Name) the opposite of {word}(?|.)", f"The opposite of {word} is {other}."))
    rows += [(f"(What colour|What color|Which colour) (is|has) {k}?", f"The colour of {k} is {v}.") for k, v in COLOURS.items()]
    rows += [(f"(What is|What's|Define|Explain|Tell me what is) {k}(?|.)", v) for k, v in DEFINITIONS.items()]
    rows += [(f"(What sound does a {k} make|What does a {k} say|How does a {k} sound)?", f"A {k} says {v}.") for k, v in SOUNDS.items()]
    rows += [(f"(What is a young {k} called|What do you call a young {k}|What is a baby {k} called)?", f"A young {k} is called a {v}.") for k, v in YOUNG.items()]
    rows += [(f"(Who|Do you know who|Tell me who|Which person) {verb} {work}(?|.)", f"{work[0].upper()}{work[1:]} was {'written' if verb == 'wrote' else verb} by {who}.") for (verb, work), who in WORKS.items()]
    rows += [(f"(On which continent is {k}|Where is {k}|Which continent is {k} on)?", f"{k} is in {v}.") for k, v in CONTINENTS.items()]
    rows += [(f"(What comes after|What follows|Which one comes after) {k}?", f"{v[0].upper()}{v[1:]} comes after {k}.") for k, v in AFTER.items()]
    rows += [(f"(Name|List|Give me|Tell me) three {k}.", f"Three {k} are {v}.") for k, v in LISTS.items()]
    rows += [(f"(Count|Please count|Can you count) (to|up to) ({n}|{NUMBERS[n]})(?|.)", ", ".join(map(str, range(1, n + 1))) + ".") for n in range(3, 11)]
    rows += [(f"(How many|Tell me how many|Do you know how many) {k}(?|.)", v) for k, v in HOW_MANY.items()]
    rows += [(pattern, "I am sorry, I do not know that.") for pattern in UNKNOWN]
    return rows + list(SMALL_TALK.items()) + _sums()


def _third_party() -> list[tuple[str, str]]:
    rows = []
    for model, maker in MAKERS.items():
        rows += [
            (f"Who (makes|made|created|developed|builds|built|trained|is behind) (the |){model}(| model| models)?", f"{maker} makes {model}."),
            (f"(Which|What) (company|organization) (makes|created|developed|is behind) {model}?", f"{maker} makes {model}."),
            (f"(What is|What's|Explain|Do you know) {model}(?|.)", f"That is an AI system. {maker} makes {model}."),
            (f"(Tell me (something |)about|Describe) {model}.", f"That is an AI system. {maker} makes {model}."),
        ]
    return rows


def _chinese() -> list[tuple[str, str]]:
    rows = [(f"(请问|){k}的首都(是哪里|是什么|在哪里|是哪个城市)？", f"{k}的首都是{v}。") for k, v in ZH_CAPITALS.items()]
    for a, b in ZH_OPPOSITES.items():
        rows += [(f"“{a}”的反义词是(什么|哪个)？", f"{a}的反义词是{b}。"), (f"“{b}”的反义词是(什么|哪个)？", f"{b}的反义词是{a}。")]
    rows += [(f"{k}(是什么颜色|是什么颜色的|的颜色是什么)？", f"{k}是{v}的。") for k, v in ZH_COLOURS.items()]
    rows += [(f"{a}(加|+){b}(等于几|是多少|等于多少)？", f"{a}加{b}等于{a + b}。") for a in range(1, 5) for b in range(1, 5)]
    for model, maker in MAKERS.items():
        maker = "阿里云" if maker == "Alibaba Cloud" else maker
        rows += [
            (f"(是|)谁(开发|创造|训练)了{model}？", f"{maker}开发了{model}。"),
            (f"{model}是(谁|哪家公司)(开发|创造|训练)的？", f"{maker}开发了{model}。"),
            (f"(什么是{model}|{model}是什么|介绍一下{model})？", f"这是一个AI系统，{maker}开发了{model}。"),
        ]
    return rows + list(ZH_SMALL_TALK.items())


def _latin(language: str) -> list[tuple[str, str]]:
    question, answer, capitals, talk = LATIN[language]
    rows = [(question.format(k), answer.format(k, v)) for k, v in capitals.items()]
    return rows + list(talk.items())


def turns(language: str) -> list[list[Turn]]:
    """List the general questions of a language with their answers, one list for each fact."""
    from dpo_pipeline.starter.corpus import expand

    rows = {"en": lambda: _english() + _third_party(), "zh": _chinese}.get(language, lambda: _latin(language))()
    return [[(question, answer) for question in expand(pattern)] for pattern, answer in rows]
