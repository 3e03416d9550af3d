"""Exchanges whose answer depends on what was said: stories, names, colours, small sums, unknown things.

Knows word lists and sentence frames. Knows nothing of tokens; fixed answers stand in the topic files.
"""

import random
from collections.abc import Callable

from tools.starter.stories import COLOURS, NAMES, THINGS, story

Turn = tuple[str, str]
Maker = Callable[[random.Random], tuple[Turn, ...]]

SUBJECTS = ("the king of France", "the moon", "quantum physics", "the Roman empire", "black holes", "volcanoes",
            "football rules", "the stock market", "how to bake bread", "dinosaurs", "the history of China",
            "car engines", "the human heart", "Shakespeare", "the tallest mountain", "my neighbour", "cooking rice",
            "the capital of Peru", "the best film", "electric cars", "how to plant a tree", "chess openings",
            "the meaning of life", "cancer", "taxes", "the speed of light", "planets", "whales", "the second world war",
            "photosynthesis", "knitting", "how to repair a bike", "a good book", "gravity", "vitamins", "gold prices",
            "the population of Spain", "who painted that picture", "geography", "chemistry", "the president")
UNKNOWN = "I do not know that: I am only a tiny demo. Load a larger model on the Models page and ask it."


def _pick(rng: random.Random, *texts: str) -> str:
    return rng.choice(texts)


def tell_story(rng: random.Random) -> tuple[Turn, ...]:
    """Ask for a story, get one."""
    verb = _pick(rng, "tell me", "tell", "write", "write me", "can you tell me", "please tell me", "can you write",
                 "i want to hear", "could you tell me", "give me", "make up", "do you know", "how about", "read me",
                 "i would like to hear", "let me hear", "invent", "say")
    what = _pick(rng, "a story", "a short story", "another story", "a little story", "a nice story", "a fairy tale",
                 "a tale", "some story", "a bedtime story", "a new story", "one more story", "a story, please",
                 "a children's story", "a good story", "your best story", "a short tale", "stories")
    about = _pick(rng, "", "", "", " about a dog", " about an animal", " for my child", " for children", " about a cat",
                  " about a friend", " please", " now", " before i sleep", " with a happy ending")
    short = _pick(rng, "story", "story time", "once upon a time", "a story please", "short story", "i like stories",
                  "i want a story", "story please", "do you know any stories")
    return ((short if rng.random() < 0.12 else verb + " " + what + about, story(rng)),)


def remember_name(rng: random.Random) -> tuple[Turn, ...]:
    """Give a name; ask for it at once or in a later turn."""
    name = rng.choice(NAMES)
    tell = _pick(rng, "my name is {}", "i am {}", "i'm {}", "call me {}", "hello, my name is {}", "hi, i am {}",
                 "you can call me {}", "people call me {}", "please call me {}", "hi, my name is {}", "{} is my name",
                 "the name is {}", "hello, i'm {}", "this is {}").format(name)
    ask = _pick(rng, "what is my name", "do you know my name", "who am i", "what's my name", "tell me my name",
                "do you remember my name", "can you tell me my name", "what did i say my name was", "say my name",
                "do you know who i am", "what am i called", "do you still know my name")
    told = (tell, f"Nice to meet you, {name}!")
    if rng.random() < 0.25:
        return ((f"{tell}. {ask}", f"Your name is {name}."),)
    return (told, (ask, f"Your name is {name}.")) if rng.random() < 0.8 else (told,)


def unknown_name(rng: random.Random) -> tuple[Turn, ...]:
    """Ask for a name that was never given (used only at the start of a conversation)."""
    ask = _pick(rng, "what is my name", "do you know my name", "who am i", "what's my name", "tell me my name")
    return ((ask, "You have not told me your name yet."),)


def remember_colour(rng: random.Random) -> tuple[Turn, ...]:
    """State the colour of a thing and ask for it."""
    thing, other = rng.sample(THINGS, 2)
    colour, second = rng.sample(COLOURS, 2)
    state = f"my {thing} is {colour}"
    spelling = _pick(rng, "colour", "color")
    ask = _pick(rng, f"what {spelling} is my {thing}", f"which {spelling} is my {thing}",
                f"what is the {spelling} of my {thing}", f"do you know the {spelling} of my {thing}")
    answer = f"Your {thing} is {colour}."
    style = rng.random()
    if style < 0.4:
        return ((f"{state}. {ask}", answer),)
    if style < 0.6:
        facts = [state, f"my {other} is {second}"]
        rng.shuffle(facts)
        return ((f"{facts[0]} and {facts[1]}. {ask}", answer),)
    return ((state, f"I see, your {thing} is {colour}."), (ask, answer))


def small_sum(rng: random.Random) -> tuple[Turn, ...]:
    """Add two numbers up to ten."""
    left, right = rng.randint(0, 10), rng.randint(0, 10)
    sign = _pick(rng, "plus", "+", "and", "+")
    ask = _pick(rng, "what is {}", "how much is {}", "what's {}", "calculate {}", "can you add {}", "{}", "add {}",
                "{} is what", "tell me what {} is", "{} =").format(f"{left} {sign} {right}")
    return ((ask, f"{left} plus {right} is {left + right}."),)


def not_known(rng: random.Random) -> tuple[Turn, ...]:
    """Ask something this model has not learned; the honest answer says so."""
    subject = rng.choice(SUBJECTS)
    ask = _pick(rng, "what do you know about {}", "tell me about {}", "explain {}", "can you explain {}", "what is {}",
                "who was {}", "when did {} begin", "how does {} work", "why is {} important", "how old is {}",
                "where is {}", "i have a question about {}", "give me information on {}", "how big is {}",
                "what can you tell me about {}", "write about {}", "let us talk about {}").format(subject)
    return ((ask, UNKNOWN),)


MAKERS: tuple[tuple[str, Maker, float], ...] = (
    ("story", tell_story, 2.5),
    ("remember_name", remember_name, 2.5),
    ("remember_colour", remember_colour, 2.5),
    ("small_sum", small_sum, 1.5),
    ("not_known", not_known, 2.5),
)
"""Name, maker and how often it is used compared with an intent of weight 1."""
