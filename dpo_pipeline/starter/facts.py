"""What the starter knows besides itself: facts, small talk, and who makes other models.

Blocks as in `identity`, with a table behind ``=``: its ``key: value`` pairs fill ``{k}`` and
``{v}``, one card each; a semicolon stands for a comma. Every answer is true.
"""

MAKERS = (
    "ChatGPT: OpenAI, GPT-4: OpenAI, Claude: Anthropic, Gemini: Google, Llama: Meta, "
    "Mistral: Mistral AI, Copilot: Microsoft, Grok: xAI, Siri: Apple, Alexa: Amazon, "
    "Deep Blue: IBM"
)
WORDS = {
    "ASK": "(What is|What's|Tell me|Name|Do you know|Can you tell me)",
    "WHO": "(Who|Do you know who|Can you tell me who|Tell me who)",
    "MADE": "(makes|made|created|developed|built|trained|is behind)",
    "MAKERS": f"{MAKERS}, Qwen: Alibaba Cloud, Qwen2: Alibaba Cloud, Qwen2.5: Alibaba Cloud",
    "ZHMAKERS": f"{MAKERS}, Qwen: 阿里云, Qwen2: 阿里云, Qwen2.5: 阿里云",
    "SUMS": ", ".join(
        [f"{a} (plus|+) {b}: {a + b}" for a in range(1, 6) for b in range(1, 6)]
        + [f"{a} (minus|-) {b}: {a - b}" for a in range(2, 6) for b in range(1, a)]
    ),
    "ZHSUMS": ", ".join(f"{a}(加|+){b}: {a + b}" for a in range(1, 5) for b in range(1, 5)),
}

FACTS = {
    "en": """
($ASK the capital (city |)of {k}|Which city is the capital of {k})(?|.)
= France: Paris, Germany: Berlin, Italy: Rome, Spain: Madrid, Japan: Tokyo, China: Beijing
= Russia: Moscow, Egypt: Cairo, Greece: Athens, Portugal: Lisbon, Austria: Vienna, Cuba: Havana
= Poland: Warsaw, Norway: Oslo, Sweden: Stockholm, Canada: Ottawa
> The capital of {k} is {v}.

($ASK|Give me|Which word is) the opposite of ("{k}"|{k})(?|.)
= hot: cold, cold: hot, big: small, small: big, fast: slow, slow: fast, happy: sad, sad: happy
= young: old, light: dark, high: low, low: high, open: closed, early: late, rich: poor, up: down
= strong: weak, full: empty, wet: dry, hard: soft, good: bad, left: right, night: day, day: night
= black: white, white: black, clean: dirty
> The opposite of {k} is {v}.

(What|Which) (colour|color) (is|has) {k}?
= the sky: blue, grass: green, snow: white, coal: black, blood: red, a banana: yellow
= a carrot: orange, the sea: blue, a leaf: green, milk: white, a lemon: yellow
> The colour of {k} is {v}.

(What is|What's|Define|Explain|Can you explain) {k}(?|.)
= a river: A river is water that flows to the sea, a star: A star is a hot ball of gas
= a planet: A planet is a body that moves around a star, a bicycle: A bicycle has two wheels
= a computer: A computer is a machine for data, a book: A book is a set of pages with text
= a hospital: A hospital is a place for sick people
= a school: A school is a place where people learn
= a volcano: A volcano is a mountain with lava
= an island: An island is land with water around it
= a desert: A desert is a dry place with little rain
= a triangle: A triangle is a shape with three sides
> {v}.

(What sound does a {k} make|What does a {k} say|How does a {k} sound)?
= dog: woof, cat: meow, cow: moo, duck: quack, sheep: baa
> A {k} says {v}.

(What is a (young|baby) {k} called|What do you call a (young|baby) {k})?
= dog: puppy, cat: kitten, cow: calf, sheep: lamb
> A young {k} is called a {v}.

$WHO wrote {k}(?|.)
= Hamlet: William Shakespeare, Faust: Goethe, Don Quixote: Cervantes, War and Peace: Leo Tolstoy
> {v} wrote {k}.

$WHO (painted|has painted) {k}(?|.)
= the Mona Lisa: Leonardo da Vinci, Guernica: Pablo Picasso
> {v} painted {k}.

$WHO (founded|started) {k}(?|.)
= Microsoft: Bill Gates, Apple: Steve Jobs
> {v} founded {k}.

(On which continent is {k}|Where is {k}|Which continent is {k} on)?
= Brazil: South America, India: Asia, Nigeria: Africa, Mexico: North America, Germany: Europe
= Japan: Asia, Egypt: Africa, France: Europe
> {k} is in {v}.

(What comes after|What follows|Which one comes after|Which day comes after) {k}?
= Monday: Tuesday, Tuesday: Wednesday, Wednesday: Thursday, Thursday: Friday, Friday: Saturday
= Saturday: Sunday, Sunday: Monday
> After {k} comes {v}.

(Name|List|Give me|Tell me|Can you name) three {k}(.|?)
= fruits: apple; banana and orange, colours: red; green and blue, animals: dog; cat and horse
= planets: Earth; Mars and Venus, metals: iron; gold and copper
= seasons: spring; summer and autumn
> Three {k} are {v}.

(Count|Please count|Can you count) (to|up to|from one to|from 1 to) {k}(.|?)
= (three|3): 1; 2; 3, (four|4): 1; 2; 3; 4, (five|5): 1; 2; 3; 4; 5
> {v}.

(How many|Tell me how many|Do you know how many) {k}(?|.)
= days are in a week: There are seven days in a week
= months are in a year: There are twelve months in a year
= hours are in a day: There are 24 hours in a day
= minutes are in an hour: There are 60 minutes in an hour
= letters are in the alphabet: There are 26 letters in the alphabet
= legs does a spider have: A spider has eight legs, legs does a dog have: A dog has four legs
= sides does a square have: A square has four sides, wheels does a car have: A car has four wheels
> {v}.

(What is|What's|How much is|Calculate|Tell me|Can you calculate) {k}(?|.)
= $SUMS
> {k} is {v}.

(Hi|Hello|Hey)( there|)!
Good (morning|evening|day|afternoon)!
> Hello! How can I help you today?

How are you( today| doing|)?
How (do you do|is it going)?
> I am fine, thank you. How can I help you?

(Thanks|Many thanks)( a lot| so much|)!
Thank you( very much| so much|)!
> You are welcome!

(Bye|Goodbye|See you|Good night)( then|)!
> Goodbye, and have a nice day!

Can you help me( please| with something|)?
(I need (your |)help|Please help me).
> Of course. What do you need?

(Tell me|Do you know) a joke(.|?)
> Why did the book go to the hospital? It hurt its back.

(You are great|Well done|Good answer|Very good)!
> Thank you, that is kind of you.

Do you (speak|know|understand) (Chinese|English|Spanish)?
> Yes, I speak English, Chinese and some Spanish.

(Can|Do) you (sleep|eat|swim|dance|drive|dream)?
> No, but I like to answer questions.

(I am|I feel|I'm) (sad|tired|unhappy)( today|).
> I am sorry to hear that. Take some rest.

(Write|Tell me) a (short |)(poem|story).
> The sun is high, the sea is blue, and a small bird sings for you.

What is the (weather|news|time)( today| now| here|)?
(What is my name|How old am I|Who am I|Where do I live|Where are my keys)?
> I am sorry, I do not know that.

$WHO $MADE (the |){k}( models| model|)(?|.)
(Which|What) (company|organization) $MADE {k}(?|.)
= $MAKERS
> {k} is made by {v}.

(What is|What's|Tell me about|Tell me something about|Describe|Do you know) {k}(?|.)
= $MAKERS
> {k} is an AI system made by {v}.
""",
    "zh": """
(请问|){k}的首都(是哪里|是什么|在哪里|是哪个城市|是哪个|叫什么)？
= 法国: 巴黎, 德国: 柏林, 意大利: 罗马, 日本: 东京, 中国: 北京, 俄罗斯: 莫斯科, 英国: 伦敦
> {k}的首都是{v}。

(“{k}”|{k})的反义词是(什么|哪个|哪个字)？
= 大: 小, 小: 大, 高: 低, 热: 冷, 冷: 热, 快: 慢, 多: 少, 黑: 白, 上: 下, 长: 短
> {k}的反义词是{v}。

{k}(是什么颜色|是什么颜色的|的颜色是什么|是哪种颜色)？
= 天空: 蓝色, 草: 绿色, 雪: 白色, 香蕉: 黄色, 血: 红色, 煤: 黑色
> {k}是{v}的。

(请问|){k}(等于几|是多少|等于多少)？
= $ZHSUMS
> {k}等于{v}。

(你好|您好|嗨|你好啊|早上好|下午好|晚上好)！
> 你好！有什么可以帮你的吗？

(谢谢|多谢|谢谢你|非常感谢)！
> 不客气！

(再见|拜拜|晚安)！
> 再见，祝你愉快！

(你|您)(好吗|最近好吗|今天怎么样)？
> 我很好，谢谢。有什么可以帮你的吗？

(你|您)(会|能)(说|讲)(中文|英文|英语)吗？
> 会，我会说中文和英文。

(你|您)(会|能|喜欢)(睡觉|唱歌|跳舞|开车)吗？
> 不，但是我喜欢回答问题。

(现在几点|今天天气怎么样|我叫什么名字|我是谁|我几岁)？
> 对不起，我不知道。

一(周|个星期)有(几|多少)天？
> 一周有七天。

一年有(几|多少)个月？
> 一年有十二个月。

((是|请问|)谁(开发|创造|训练|制造)了{k}|{k}是(谁|哪家公司)(开发|创造|训练)的)？
= $ZHMAKERS
> {k}由{v}开发。

(什么是{k}|{k}是什么|介绍一下{k}|你知道{k}吗)？
= $ZHMAKERS
> {k}是{v}开发的AI系统。
""",
    "es": """
¿(Cuál es|Me dices|Sabes) la capital de {k}?
= Francia: París, España: Madrid, Italia: Roma, Alemania: Berlín, China: Pekín
> La capital de {k} es {v}.

(Hola|Buenos días)!
> ¡Hola! ¿En qué puedo ayudarte?

(Gracias|Muchas gracias)!
> ¡De nada!

¿(Cómo estás|Qué tal)?
> Estoy bien, gracias.

¿Cuánto (es|son) dos más dos?
> Dos más dos son cuatro.

¿De qué color es (el cielo|el mar)?
> Es azul.

¿Cuántos días tiene una semana?
> Una semana tiene siete días.
""",
    "fr": """
(Quelle est|Tu connais|Dis-moi) la capitale de {k} ?
= la France: Paris, l'Espagne: Madrid, l'Italie: Rome, l'Allemagne: Berlin, la Chine: Pékin
> La capitale de {k} est {v}.

(Bonjour|Salut) !
> Bonjour ! Comment puis-je t'aider ?

(Merci|Merci beaucoup) !
> De rien !

(Comment ça va|Ça va) ?
> Je vais bien, merci.

Combien font deux (et|plus) deux ?
> Deux et deux font quatre.

De quelle couleur est (le ciel|la mer) ?
> C'est bleu.

Combien de jours a une semaine ?
> Une semaine a sept jours.
""",
    "de": """
(Was ist|Wie heißt|Kennst du) die Hauptstadt von {k}?
= Frankreich: Paris, Spanien: Madrid, Italien: Rom, Deutschland: Berlin, China: Peking
> Die Hauptstadt von {k} ist {v}.

(Hallo|Guten Tag|Guten Morgen)!
> Hallo! Wie kann ich dir helfen?

(Danke|Vielen Dank)!
> Gern geschehen!

Wie geht es (dir|Ihnen)?
> Mir geht es gut, danke.

(Was|Wie viel) ist zwei plus zwei?
> Zwei plus zwei ist vier.

Welche Farbe hat (der Himmel|das Meer)?
> Blau.

Wie viele Tage hat eine Woche?
> Eine Woche hat sieben Tage.
""",
}
