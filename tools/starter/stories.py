"""Write short plain English stories and small made-up exchanges from word lists.

Knows words only. Every text comes from the lists in this file, chosen with the given random generator.
"""

import random

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Finn", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Mia",
         "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Tom", "Lucy", "Max", "Nina", "Oscar", "Sara", "Will")
ANIMALS = ("dog", "cat", "horse", "fox", "bear", "rabbit", "bird", "mouse", "duck", "frog", "pony", "sheep")
KINDS = ("little", "small", "brave", "happy", "kind", "clever", "shy", "funny", "old", "young")
PLACES = ("forest", "garden", "village", "field", "park", "river", "barn", "hill", "house by the sea", "paddock")
THINGS = ("ball", "key", "book", "hat", "boat", "lamp", "kite", "bell", "apple", "box", "cup", "coat", "bag", "bike")
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "orange", "pink", "grey")
TIMES = ("One day", "One morning", "One evening", "One sunny day", "One cold day", "One night")
WEATHER = ("The sun was shining", "It was raining", "The wind was strong", "Snow was falling", "The sky was blue")
PROBLEMS = (
    ("lost the {colour} {thing}", "looked everywhere for it", "found the {thing} under a tree"),
    ("could not sleep", "counted the stars", "fell asleep in the soft grass"),
    ("was very hungry", "asked a friend for help", "shared a big cake with the friend"),
    ("wanted to learn to swim", "practised every day", "swam across the whole river"),
    ("heard a strange sound", "went to see what it was", "found a baby bird and took it home"),
    ("saw a {colour} {thing} in the water", "jumped in to get it", "gave the {thing} back to its owner"),
    ("got lost on the way home", "followed the sound of a bell", "came home before dark"),
    ("wanted to build a {thing}", "worked the whole day", "was proud of the new {thing}"),
)
ENDINGS = ("From that day on they were best friends.", "Everybody was happy.", "And that was a good day.",
           "Then it was time to go to bed.", "They laughed and went home together.",
           "Being kind is never wrong.")


def story(rng: random.Random) -> str:
    """Return a story of four to seven sentences that begins with 'Once upon a time'."""
    name, friend = rng.sample(NAMES, 2)
    animal, kind, place = rng.choice(ANIMALS), rng.choice(KINDS), rng.choice(PLACES)
    thing, colour = rng.choice(THINGS), rng.choice(COLOURS)
    trouble, effort, relief = (part.format(thing=thing, colour=colour) for part in rng.choice(PROBLEMS))
    lines = [f"Once upon a time there was a {kind} {animal} named {name}.",
             f"{name} lived near a {place}." if " " not in place else f"{name} lived in a {place}."]
    if rng.random() < 0.5:
        lines.append(f"{rng.choice(WEATHER)}.")
    lines.append(f"{rng.choice(TIMES)} {name} {trouble}.")
    if rng.random() < 0.4:
        lines.append(f'"Can you help me, {friend}?" asked {name}. "Of course," said {friend}.')
    lines.append(f"{name} {effort} and {relief}.")
    lines.append(rng.choice(ENDINGS))
    return " ".join(lines)


def scene(rng: random.Random) -> str:
    """Return a few plain sentences about a person, for free text without a story frame."""
    name, friend = rng.sample(NAMES, 2)
    thing, colour, place = rng.choice(THINGS), rng.choice(COLOURS), rng.choice(PLACES)
    animal, kind = rng.choice(ANIMALS), rng.choice(KINDS)
    lines = [
        f"{name} has a {colour} {thing}.",
        f"The {colour} {thing} belongs to {name}.",
        f"{name} and {friend} are good friends.",
        f"{rng.choice(TIMES)} {name} went to the {place} with a {kind} {animal}.",
        f"{rng.choice(WEATHER)}, so {name} stayed near the {place}.",
        f'"Where is my {thing}?" asked {friend}. "It is near the {place}," said {name}.',
        f"The {animal} was {kind} and liked to sleep in the sun.",
        f"In the evening {name} and {friend} went home and had something good to eat.",
        f"{friend} gave {name} a {colour} {thing}, and {name} was very happy.",
        f"Every morning the {animal} runs across the {place}.",
    ]
    rng.shuffle(lines)
    return " ".join(lines[: rng.randint(4, 8)])
