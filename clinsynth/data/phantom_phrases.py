"""The words of phantom-posts; all of them made up."""

FREQUENCIES = {
    1: ["on some days", "now and then", "once or twice a week", "for a day or two at a time", "on a few evenings"],
    2: ["on most days", "more days than not", "the greater part of these two weeks", "more often than not"],
    3: ["nearly every day", "every single day", "day after day", "all the time, from morning to night"],
}
SYMPTOMS = {
    "interest": [
        "I start nothing, because nothing seems worth the start",
        "the guitar stays in its case and I do not miss it",
        "games that I used to love bore me after a minute",
        "I say no to everything that used to be fun",
    ],
    "mood": [
        "I am low without a reason that I could name",
        "there is a grey weight on whatever I look at",
        "I am close to tears over small things",
        "I see no way in which this gets better",
    ],
    "sleep": [
        "I lie awake until three",
        "I wake at four and that is that",
        "I sleep eleven hours and could sleep on",
        "the nights are broken into pieces",
    ],
    "energy": [
        "I am worn out before lunch",
        "the stairs feel like a mountain",
        "a shower takes all the strength I have",
        "my arms are heavy and I sit down again",
    ],
    "appetite": [
        "food tastes of paper and I leave it",
        "I forget to eat until it is dark",
        "I eat whole packets of biscuits without hunger",
        "the plate goes back as it came",
    ],
    "worth": [
        "I think that I let everybody down",
        "I go through old mistakes like a list",
        "I feel like a burden to those around me",
        "a voice in my head tells me that I am no good",
    ],
    "concentration": [
        "I read the same page five times",
        "I lose the thread in the middle of a sentence",
        "a film is too long for my head",
        "I put the keys in the fridge and the milk on the shelf",
    ],
    "movement": [
        "people ask me why I talk so slowly",
        "I pace up and down the hall and cannot sit",
        "my hands are never still",
        "I move as if through water",
    ],
    "hopelessness": [
        "I ask myself what any of this is for",
        "I would not mind if tomorrow did not come",
        "the future is a wall",
        "it would be easier not to be here, I think",
    ],
}
OPENINGS = [
    "So, an update from me.",
    "I have not written here for a while.",
    "Long day, short post.",
    "Does anybody else know this?",
    "My sister says that I should write things down.",
    "Somebody asked how the last two weeks were.",
    "It is late and I am still up.",
    "Greetings from the bus.",
    "I never know how to begin these.",
    "First post, be kind.",
]
SCENES = [
    "the office moved to another floor and my desk is by the window now.",
    "we had visitors from my partner's side over the weekend.",
    "the car is in the garage again, so I walk.",
    "exams are over and the flat is quiet.",
    "the night shifts go on until the end of the month.",
    "our dog had puppies and the kitchen is theirs.",
    "I planted tomatoes on the balcony.",
    "the neighbours drill from eight to five.",
    "my brother got married on Saturday.",
    "I changed shops and know nobody there yet.",
    "the rain has not stopped since Monday.",
    "there was a letter from the landlord.",
]
ORDINARY = [
    "dinner was pasta, as always.",
    "on Friday we watched the match and shouted a lot.",
    "I finished the book that everybody talks about, it was fine.",
    "the train was late, the coffee was good.",
    "I laughed at a video of a goat for far too long.",
    "my knee is better and I went for a run.",
    "work was busy and then it was not.",
    "I called an old friend and we talked for an hour.",
    "I fixed the tap myself and am rather proud of it.",
    "I was cross about a ticket, and then I forgot it.",
]
CLOSINGS = [
    "That is all.",
    "Thanks for reading.",
    "Back to it, then.",
    "Tell me how you are.",
    "I do not know why I write this.",
    "More next week, perhaps.",
    "Good night.",
    "Any advice is welcome.",
]
