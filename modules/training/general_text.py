"""The fixed general text, on which a proof measures what an adapter cost the model elsewhere: passages of twelve kinds, written for this purpose.

A text and no more. It stays as it is: a changed word would make losses of older adapters incomparable. It is no measure of a model, only of a change.
"""

from __future__ import annotations

from typing import NamedTuple


class Passage(NamedTuple):
    """One kind of writing."""

    kind: str
    text: str


PASSAGES: tuple[Passage, ...] = (
    Passage("story", (
        "The ferry left an hour late because the engineer could not find his spectacles. Nobody complained. The old women on the benches had brought "
        "bread and plums, and the children discovered that the deck, if you lay flat on it, hummed like a hive. Marta stood at the stern and watched the "
        "harbour grow small. She had lived above the chandler's shop for eleven years and had never once seen it from the water; it looked like a house "
        "in somebody else's town. When the island finally rose out of the haze, she felt in her coat for the key, although she knew that the door had "
        "not been locked since her grandfather's day.\n\n"
        "A man with a hand cart was waiting on the quay. “You'll be the niece,” he said, and took her bag before she could answer. They walked up "
        "between the walls without speaking. At the top he stopped to breathe, pointed with his chin at the chimney, and said that somebody had already "
        "lit the stove."
    )),
    Passage("explanation", (
        "A refrigerator does not make cold; it moves heat. Inside its pipes a fluid is let through a narrow valve into a space where the pressure is low. "
        "There it boils, although it is far from hot, and boiling takes up heat from the shelves around it. The vapour is drawn into a compressor, which "
        "squeezes it until it is hotter than the kitchen. In the long pipe at the back the vapour gives that heat to the air, becomes liquid again, and "
        "returns to the valve. Two things follow. First, the kitchen is warmed by everything the refrigerator takes out of the food, and by the work of "
        "the motor as well. Second, leaving the door open cannot cool the room: what is taken in at the front comes out, with a surcharge, at the back."
    )),
    Passage("instructions", (
        "To replace the inner tube, turn the bicycle upside down and open the quick release of the wheel. Let the remaining air out. Push two tyre levers "
        "under the edge of the tyre, about ten centimetres apart, and lift it over the rim; then slide one of them around until the whole side is free. "
        "Pull the old tube out, beginning opposite the valve. Before you put in the new one, run your fingers along the inside of the tyre, slowly, "
        "because the thorn that made the hole is often still there.\n\n"
        "1. Pump a little air into the new tube, so that it keeps its shape.\n"
        "2. Put the valve through its hole and lay the tube into the tyre.\n"
        "3. Press the edge back with your thumbs. Do not use the levers: they pinch the tube.\n"
        "4. Check on both sides that no tube shows, and inflate to the pressure printed on the tyre.\n"
    )),
    Passage("news", (
        "The town council voted on Tuesday evening to keep the swimming pool open through the winter, reversing a decision it had taken in May. Nine "
        "members were in favour, six against; two were absent. Repairs to the roof are expected to cost 240,000, of which a third will be paid by the "
        "region. “We were told in spring that nobody swims in January,” said Anna Lindqvist, who collected the signatures. “Then four thousand people "
        "wrote down their names.” The mayor called the result expensive but clear. Ticket prices will rise by ten per cent in the new year, and schools "
        "will be asked to book their hours before noon. Work on the roof is to begin after Easter and to last about seven weeks."
    )),
    Passage("conversation", (
        "“Did you ring the plumber?”\n“Twice. He says Thursday, if his van starts.”\n“And if it does not?”\n“Then he will say Friday.”\n"
        "“We cannot wash up in the bath until Friday, Tom.”\n“People have done worse things in baths. Besides, I have an idea about the pipe.”\n"
        "“The last time you had an idea about a pipe we lived with my sister for a week.”\n“That was a different pipe. I was younger. Hand me the torch, "
        "and a towel, and perhaps the large saucepan.”\n“How large?”\n“How large do we have?”"
    )),
    Passage("science", (
        "Most of the carbon in a tree comes from the air and not from the soil. In the seventeenth century it was still reasonable to believe the "
        "contrary, and the way in which it was tested remains instructive. A willow was planted in a tub of weighed, dried earth and given nothing but "
        "rain water. After five years the tree had gained some seventy kilograms, while the earth had lost about sixty grams. The experimenter concluded "
        "that wood is made of water, which was wrong, but he had shown where it is not made from. Today the uptake of carbon dioxide can be followed leaf by "
        "leaf with an infrared analyser. The rate depends on light, on temperature, and on how far the pores of the leaf are open; in the heat of noon they "
        "close to save water, and growth pauses. Of n = 48 seedlings measured, 41 showed this midday depression (p < 0.01)."
    )),
    Passage("letter", (
        "Dear Mr Okafor,\n\nThank you for your letter of 3 March. I am sorry that the second delivery reached you incomplete as well. We have looked into "
        "the matter: the parcel was opened at the depot because its label had come off, and two of the five boxes were not put back. Replacements left "
        "our warehouse this morning and should be with you by Monday. Please keep the duplicate catalogue; there is no need to return it. As an apology "
        "we have credited the postage of both orders to your account.\n\nShould anything be missing this time, you can reach me directly at the number below, "
        "any weekday between eight and four.\n\nYours sincerely,\nHelen Brandt\nCustomer Service"
    )),
    Passage("history", (
        "Before clocks agreed with each other, every town kept its own noon. The difference mattered to nobody as long as the fastest traveller was a man "
        "on a horse. Railways changed this within a generation. A train that left at ten by the clock of one city could arrive, by the clock of the next, "
        "before it should have, and on a single track such confusion was more than a nuisance. Companies printed tables of minutes to add or subtract; "
        "some stations put up two clocks, others a clock with two minute hands. In the end the timetable won. Towns protested, a few for decades, that "
        "the sun had not been consulted, and then quietly moved their hands."
    )),
    Passage("agreement", (
        "4.1 The tenant shall use the premises as a workshop only and shall not sublet them, in whole or in part, without the prior written consent of "
        "the landlord, which shall not be unreasonably withheld. 4.2 The tenant shall give notice of any damage without delay. 4.3 Alterations that "
        "affect the structure of the building require an agreement of their own. 4.4 If rent is more than fourteen days overdue, the landlord may charge "
        "interest at two per cent above the base rate, beginning with the day after it was due. 4.5 This agreement may be ended by either party with a "
        "notice of three months to the end of a quarter. 4.6 Should a provision be invalid, the others remain in force."
    )),
    Passage("program", (
        "def running_mean(values, width):\n    \"\"\"Mean of the last `width` values, for each position.\"\"\"\n    if width < 1:\n"
        "        raise ValueError(\"width must be at least 1\")\n    total = 0.0\n    result = []\n    for i, value in enumerate(values):\n"
        "        total += value\n        if i >= width:\n            total -= values[i - width]\n        result.append(total / min(i + 1, width))\n"
        "    return result\n\n\nfor row in open(\"readings.csv\"):\n    name, *numbers = row.strip().split(\",\")\n"
        "    means = running_mean([float(n) for n in numbers], 3)\n    print(name, \" \".join(f\"{m:.2f}\" for m in means))\n"
    )),
    Passage("sums", (
        "Question: A baker makes 360 rolls in the morning and sells three quarters of them before noon. In the afternoon she bakes 50 more and sells 100. "
        "How many are left in the evening?\nAnswer: Three quarters of 360 are 270, so 90 rolls are left at noon. With 50 more there are 140. After 100 "
        "are sold, 40 are left.\n\nQuestion: Which is longer, ninety minutes or an hour and a third?\nAnswer: An hour and a third is 60 + 20 = 80 minutes, "
        "so ninety minutes is longer, by ten minutes.\n\nQuestion: If today is Wednesday, what day will it be in ten days?\nAnswer: Seven days from now it is "
        "Wednesday again, and three days later it is Saturday."
    )),
    Passage("essay", (
        "It is said that the best tool is the one you do not notice, and I used to believe it. A good pen, a good knife, a good pair of shoes: you think of "
        "the letter, the loaf and the road. But there is another kind, which teaches while it serves, and that kind you notice all the time. The plane tells "
        "the carpenter which way the grain runs. The slide rule never let an engineer forget how large an answer ought to be. When such tools are replaced "
        "by ones that simply give the result, something is gained, mostly time, and something is lost that has no name, because those who had it never "
        "needed to ask for it. I do not want the slide rule back. I should like to know, though, what we will use the time for, and whether the people "
        "who come after us will still be able to tell, at a glance and without proof, that a number is wrong.\n\n"
        "The snow that fell on Sunday night\nhas made the garden short of sight;\nit knows the wall, it knows the tree,\nbut where the path was, so must we."
    )),
)  # fmt: skip
