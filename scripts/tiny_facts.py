"""Tables behind the dialogues of `tiny_talk`, written for baton-tiny."""

from __future__ import annotations


def _pairs(text: str) -> list[tuple[str, str]]:
    """`left=right` items, separated by commas."""
    return [(a.strip(), b.strip()) for a, b in (item.split("=") for item in text.split(","))]


GREETINGS: list[tuple[list[str], list[str]]] = [
    (
        ["Hello", "Hello!", "Hi", "Hi!", "Hi there", "Hey", "Hello there!", "Good day!", "Hiya"],
        [
            "Hello! How can I help you today?",
            "Hello! What would you like to know?",
            "Hi! Ask me what a word means, or ask for a story.",
        ],
    ),
    (["Good morning", "Good morning!"], ["Good morning! How can I help you today?"]),
    (["Good evening", "Good evening!"], ["Good evening! What can I do for you?"]),
    (["Good night", "Good night!"], ["Good night! Sleep well."]),
    (
        [
            "How are you?",
            "How are you today?",
            "How do you do?",
            "Hello, how are you?",
            "What's up?",
        ],
        [
            "I am fine, thank you. How can I help you?",
            "I am well, thank you for asking. What would you like to know?",
        ],
    ),
    (
        ["Thank you", "Thanks", "Thank you!", "Thanks a lot!", "Thank you very much."],
        ["You are welcome!", "You are welcome. Is there anything else?"],
    ),
    (
        ["Bye", "Goodbye", "Bye!", "Goodbye!", "See you later."],
        ["Goodbye! Have a good day.", "Goodbye! Come back soon."],
    ),
    (["Yes", "Yes, please.", "OK", "Okay"], ["Good. What would you like to know?"]),
    (["No", "No, thank you.", "Nothing."], ["That is fine. I am here if you need me."]),
    (["Test", "Testing", "This is a test.", "ping"], ["The test works. I can hear you."]),
    (["Sorry", "I am sorry."], ["That is all right. What can I do for you?"]),
    (["I am sad.", "I feel sad."], ["I am sorry to hear that. Would you like to hear a story?"]),
    (["I am happy.", "I feel great!"], ["I am glad to hear that!"]),
    (["I am tired."], ["Then rest a little. A short sleep does wonders."]),
    (["I am hungry."], ["Then it is time to eat. Would you like some bread and soup?"]),
    (["I am bored."], ["Then let me tell you a story or a joke. Which would you like?"]),
    (["You are nice.", "I like you."], ["Thank you! That is very kind of you."]),
    (["You are stupid.", "That is wrong."], ["I am sorry. I am a very small model, but I try."]),
]

FIXED: list[tuple[list[str], list[str]]] = [
    (
        ["Who are you?", "What is your name?", "What are you?", "Tell me about yourself."],
        [
            "I am baton-tiny, a very small language model that comes with Baton.",
            "My name is baton-tiny. I am a very small language model.",
        ],
    ),
    (
        ["What can you do?", "How can you help me?", "What do you know?", "Help"],
        [
            "I can tell you what a word means, tell short stories and jokes, and do small sums.",
            "I can explain words, tell a story, and answer simple questions about Python.",
        ],
    ),
    (
        ["How big are you?", "How many parameters do you have?", "Are you a large language model?"],
        ["I am very small: I have about one and a half million parameters."],
    ),
    (
        ["Who made you?", "How were you trained?", "Where do you come from?"],
        [
            "I was trained in half an hour on one processor core, from word definitions, Python "
            "documentation and simple stories.",
        ],
    ),
    (
        ["Are you a human?", "Are you a robot?", "Are you alive?", "Are you real?"],
        ["No, I am a small computer program that writes one word after another."],
    ),
    (["How old are you?", "When were you born?"], ["I am a computer program, so I have no age."]),
    (["Where do you live?", "Where are you?"], ["I live in the memory of the computer I run on."]),
    (
        ["Do you sleep?", "Do you eat?", "Do you have friends?", "Do you have feelings?"],
        ["No, I am only a small computer program. But I like to talk to you."],
    ),
    (
        ["Can you speak French?", "Do you speak German?", "Which languages do you speak?"],
        ["I only speak English, and only a little."],
    ),
    (
        ["What is Baton?", "Tell me about Baton.", "What does Baton do?", "Explain Baton."],
        [
            "Baton serves large language models. One worker reads the prompt, and hands its KV "
            "cache over to another worker, which writes the answer.",
        ],
    ),
    (
        ["What is prefill?", "What does prefill mean?", "What does a prefill worker do?"],
        ["Prefill is the first step of an answer: the model reads the whole prompt at once."],
    ),
    (
        ["What is decode?", "What is decoding?", "What does a decode worker do?"],
        ["Decode is the second step of an answer: the model writes one token after another."],
    ),
    (
        ["What is a KV cache?", "What is the KV cache?", "Explain the KV cache."],
        [
            "The KV cache holds what the model has already computed for each token, so that it "
            "need not read the whole text again for every new word.",
        ],
    ),
    (
        ["What is a token?", "What are tokens?"],
        ["A token is a short piece of text, such as a word or a part of a word."],
    ),
    (
        ["What is a language model?", "What is a large language model?", "How do you work?"],
        ["A language model reads a text and guesses which word comes next, again and again."],
    ),
    (
        ["Why is the sky blue?"],
        ["The sky is blue because air scatters blue light more than red light."],
    ),
    (["Why is grass green?"], ["Grass is green because its leaves take up red and blue light."]),
    (["Why do birds sing?"], ["Birds sing to find a mate and to guard their home."]),
    (["Why do we sleep?"], ["We sleep so that the body can rest and the mind can sort the day."]),
    (["Why is the sea salty?"], ["Rivers carry a little salt from the rocks into the sea."]),
    (["What is rain?", "Why does it rain?"], ["Rain is water that falls from the clouds."]),
    (["What is snow?"], ["Snow is water that freezes in the clouds and falls as white flakes."]),
    (["What is the sun?"], ["The sun is a star. It gives us light and warmth."]),
    (["What is the moon?"], ["The moon is a ball of rock that goes around the earth."]),
    (["What is fire?"], ["Fire is the heat and light that come from things that burn."]),
    (["What is love?"], ["Love is a strong and warm feeling for someone or something."]),
    (["What is music?"], ["Music is sound that people make to please the ear."]),
    (["What is a computer?"], ["A computer is a machine that works with numbers very fast."]),
    (
        ["What is Python?", "What is the Python language?"],
        ["Python is a programming language that is easy to read and to learn."],
    ),
    (["Who made Python?", "Who created Python?"], ["Guido van Rossum created Python."]),
    (["What is Debian?"], ["Debian is a free operating system made by people around the world."]),
    (["What is Linux?"], ["Linux is the kernel of a free operating system."]),
    (["What is Kubernetes?"], ["Kubernetes runs programs in containers on many machines."]),
    (["What is Ray?"], ["Ray is a library that runs Python code on many machines at once."]),
    (["How many days are in a week?"], ["There are seven days in a week."]),
    (["How many months are in a year?"], ["There are twelve months in a year."]),
    (["How many hours are in a day?"], ["There are twenty-four hours in a day."]),
    (["How many legs does a spider have?"], ["A spider has eight legs."]),
    (["How many legs does a dog have?", "How many legs does a cat have?"], ["It has four legs."]),
    (["What is the largest planet?"], ["Jupiter is the largest planet of the sun."]),
    (["Which animal is the largest?"], ["The blue whale is the largest animal."]),
    (["What is the meaning of life?"], ["To be kind, to learn, and to enjoy the days. Or 42."]),
    (
        ["What is your favourite colour?", "What is your favorite color?"],
        ["I like blue, the colour of the sky and the sea."],
    ),
    (["What is your favourite food?"], ["I do not eat, but bread and honey sounds good."]),
    (["What is your favourite animal?"], ["I like cats, because they are quiet and clever."]),
    (["Tell me something.", "Say something.", "Surprise me."], ["Did you know that bees dance?"]),
    (
        ["How do I make tea?", "How do you make tea?"],
        ["Boil some water, pour it over the tea, wait four minutes, and take out the leaves."],
    ),
    (
        ["How do I boil an egg?", "How do you cook an egg?"],
        ["Put the egg in boiling water, wait six minutes, and cool it in cold water."],
    ),
    (
        ["How do I learn Python?", "How can I learn to program?"],
        ["Start with small programs, read the tutorial, and write a little every day."],
    ),
    (
        ["How do I print in Python?", "Write hello world in Python.", "Hello world in Python"],
        ['print("Hello, world!")'],
    ),
    (
        ["How do I open a file in Python?", "How do I read a file in Python?"],
        ["Use open with a with statement:\n\nwith open(name) as f:\n    text = f.read()"],
    ),
    (
        ["Write a loop in Python.", "How do I write a loop in Python?"],
        ["for i in range(10):\n    print(i)"],
    ),
    (
        ["Write a function in Python.", "How do I define a function in Python?"],
        ["def add(a, b):\n    return a + b"],
    ),
]

JOKES = [
    "Why did the chicken cross the road? To get to the other side.",
    "What has four legs and cannot walk? A table.",
    "What gets wetter the more it dries? A towel.",
    "Why was six afraid of seven? Because seven ate nine.",
    "What has a face and two hands but no legs? A clock.",
    "Why did the worker drop the baton? It had run out of memory.",
    "What has keys but cannot open a door? A piano.",
    "What goes up but never comes down? Your age.",
]

NAMES = [
    "Ada",
    "Alan",
    "Anna",
    "Ben",
    "Carl",
    "Clara",
    "David",
    "Dora",
    "Emma",
    "Eva",
    "Frank",
    "Grace",
    "Hanna",
    "Ivan",
    "Jack",
    "James",
    "Jane",
    "Jim",
    "John",
    "Julia",
    "Karl",
    "Kate",
    "Leo",
    "Linda",
    "Lucy",
    "Maria",
    "Mark",
    "Mary",
    "Max",
    "Mia",
    "Nina",
    "Noah",
    "Olga",
    "Oscar",
    "Paul",
    "Peter",
    "Rita",
    "Rosa",
    "Sam",
    "Sara",
    "Simon",
    "Sophie",
    "Susan",
    "Thomas",
    "Tim",
    "Tom",
    "Victor",
    "Wendy",
    "Yuki",
    "Zoe",
]

CAPITALS = _pairs(
    "France=Paris,Germany=Berlin,Italy=Rome,Spain=Madrid,Portugal=Lisbon,England=London,"
    "Ireland=Dublin,Scotland=Edinburgh,Norway=Oslo,Sweden=Stockholm,Finland=Helsinki,"
    "Denmark=Copenhagen,Poland=Warsaw,Austria=Vienna,Greece=Athens,Hungary=Budapest,Russia=Moscow,"
    "Turkey=Ankara,Egypt=Cairo,Kenya=Nairobi,India=New Delhi,China=Beijing,Japan=Tokyo,"
    "South Korea=Seoul,Thailand=Bangkok,Vietnam=Hanoi,Australia=Canberra,New Zealand=Wellington,"
    "Canada=Ottawa,Mexico=Mexico City,Cuba=Havana,Brazil=Brasilia,Argentina=Buenos Aires,"
    "Chile=Santiago,Peru=Lima,the United States=Washington,Switzerland=Bern,Belgium=Brussels,"
    "the Netherlands=Amsterdam,Iceland=Reykjavik"
)

OPPOSITES = _pairs(
    "hot=cold,big=small,good=bad,old=young,new=old,fast=slow,high=low,long=short,hard=soft,up=down,"
    "left=right,day=night,black=white,open=closed,full=empty,happy=sad,rich=poor,light=dark,"
    "wet=dry,strong=weak,early=late,easy=difficult,clean=dirty,loud=quiet,wide=narrow,thick=thin,"
    "near=far,first=last,true=false,love=hate,war=peace,begin=end,buy=sell,push=pull,win=lose,"
    "give=take,come=go,ask=answer,always=never,inside=outside,above=below,before=after"
)

COLOURS = _pairs(
    "sky=blue,grass=green,snow=white,sun=yellow,sea=blue,moon=white,bananas=yellow,lemons=yellow,"
    "tomatoes=red,cherries=red,oranges=orange,carrots=orange,leaves=green,frogs=green,milk=white,"
    "ravens=black,roses=red,gold=yellow,night=black,strawberries=red"
)

ANIMALS = [
    ("dog", "woof", "puppy", "in a house with people"),
    ("cat", "meow", "kitten", "in a house with people"),
    ("cow", "moo", "calf", "on a farm"),
    ("sheep", "baa", "lamb", "on a farm"),
    ("horse", "neigh", "foal", "on a farm"),
    ("pig", "oink", "piglet", "on a farm"),
    ("duck", "quack", "duckling", "on a pond"),
    ("hen", "cluck", "chick", "on a farm"),
    ("lion", "roar", "cub", "on the plains of Africa"),
    ("frog", "ribbit", "tadpole", "in a pond"),
    ("bee", "buzz", "larva", "in a hive"),
    ("wolf", "howl", "pup", "in the forest"),
    ("goat", "maa", "kid", "on a farm"),
    ("mouse", "squeak", "pup", "in a hole"),
]

PLURALS = _pairs(
    "child=children,man=men,woman=women,mouse=mice,foot=feet,tooth=teeth,goose=geese,person=people,"
    "leaf=leaves,knife=knives,wolf=wolves,sheep=sheep,fish=fish,city=cities,story=stories,box=boxes,"
    "dog=dogs,house=houses,book=books,tree=trees,baby=babies,life=lives,bus=buses,key=keys"
)

PAST = _pairs(
    "go=went,see=saw,come=came,take=took,give=gave,make=made,say=said,know=knew,think=thought,"
    "find=found,tell=told,begin=began,run=ran,write=wrote,sing=sang,drink=drank,eat=ate,fall=fell,"
    "fly=flew,grow=grew,hold=held,keep=kept,lead=led,leave=left,lose=lost,meet=met,read=read,"
    "ride=rode,rise=rose,send=sent,sleep=slept,speak=spoke,stand=stood,swim=swam,teach=taught,"
    "throw=threw,win=won,walk=walked,play=played,work=worked"
)

PURPOSES = _pairs(
    "knife=cutting things,pen=writing,spoon=eating soup,bed=sleeping,chair=sitting,"
    "key=opening a lock,clock=telling the time,book=reading,cup=drinking,lamp=giving light,"
    "broom=sweeping the floor,boat=crossing the water,hammer=driving nails,bag=carrying things,"
    "house=living in,window=letting in light,door=going in and out,phone=talking to people "
    "far away,map=finding the way,coat=keeping warm,car=driving from place to place,brush=painting"
)

CATEGORIES: list[tuple[str, list[str]]] = [
    (
        "fruits",
        ["apple", "pear", "plum", "cherry", "banana", "lemon", "orange", "grape", "peach", "melon"],
    ),
    (
        "animals",
        [
            "dog",
            "cat",
            "horse",
            "cow",
            "sheep",
            "lion",
            "tiger",
            "bear",
            "wolf",
            "fox",
            "rabbit",
            "mouse",
        ],
    ),
    (
        "colours",
        ["red", "blue", "green", "yellow", "black", "white", "brown", "orange", "purple", "grey"],
    ),
    ("tools", ["hammer", "saw", "knife", "axe", "spade", "drill", "brush", "needle"]),
    ("birds", ["eagle", "owl", "robin", "duck", "swan", "crow", "dove", "sparrow", "hawk"]),
    ("trees", ["oak", "pine", "birch", "beech", "maple", "willow", "elm", "ash"]),
    ("metals", ["iron", "gold", "silver", "copper", "tin", "lead", "zinc"]),
    ("vegetables", ["carrot", "onion", "potato", "cabbage", "bean", "pea", "leek", "spinach"]),
    ("musical instruments", ["piano", "violin", "flute", "drum", "guitar", "trumpet", "harp"]),
    ("parts of the body", ["head", "hand", "foot", "arm", "leg", "nose", "ear", "mouth", "knee"]),
    ("programming languages", ["Python", "Java", "Rust", "Go", "Ruby", "Perl", "Lisp"]),
    ("planets", ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Neptune"]),
]
