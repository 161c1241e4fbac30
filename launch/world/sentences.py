"""Every sentence of the demo's world, as data: a small shop that answers its customers.

The set is finite, so reading is looking up (see grammar.py). `{product}` is one of PRODUCTS; `{value}` a number of the
shop's policy. No sentence of an answer says by itself whether it suits the prompt: a reader must hold both together.
"""

from __future__ import annotations

from dataclasses import dataclass

PRODUCTS = ("kettle", "lamp", "chair", "phone", "laptop", "camera", "printer", "blender",
            "bike", "watch", "tent", "desk", "radio", "toaster", "heater", "keyboard")
PLANS = ("basic", "plus", "pro", "team")
NAMES = ("Maria", "Tom", "Aisha", "Ken", "Olga", "Pedro", "Lena", "Raj", "Emma", "Jonas", "Mei", "Omar")


@dataclass(frozen=True)
class Issue:
    """What a customer may write about, how the shop solves it, and what its policy says for each of PLANS."""

    complaints: tuple[str, ...]
    resolutions: tuple[str, ...]
    facts: tuple[str, ...]
    values: tuple[int, int, int, int]


ISSUES = {
    "late delivery": Issue(
        ("My {product} has not arrived yet.", "The {product} I ordered is late.",
         "I am still waiting for my {product}.", "Where is the {product} that I bought?"),
        ("We will trace the parcel with your {product}.", "I have asked the driver to find your {product}.",
         "The parcel with your {product} is on its way."),
        ("Your plan promises delivery in {value} days.", "With your plan a parcel takes {value} days.",
         "Delivery takes {value} days with your plan."),
        (9, 7, 4, 2)),
    "broken item": Issue(
        ("My {product} came broken.", "The {product} does not work.",
         "My new {product} stopped working.", "There is a crack in my {product}."),
        ("We will repair your {product} for free.", "We will replace the broken {product}.",
         "I have booked a repair for your {product}."),
        ("Your plan covers repairs for {value} months.", "With your plan the warranty is {value} months.",
         "The warranty is {value} months with your plan."),
        (6, 12, 24, 36)),
    "double charge": Issue(
        ("I was charged twice for the {product}.", "I paid two times for my {product}.",
         "There are two payments for one {product}.", "You took the money for my {product} twice."),
        ("We will undo the second payment for your {product}.", "I have removed the extra charge for the {product}.",
         "The double payment for your {product} was stopped."),
        ("Your plan returns an extra payment in {value} days.", "With your plan the bank needs {value} days.",
         "The bank needs {value} days with your plan."),
        (10, 8, 5, 3)),
    "password": Issue(
        ("I forgot the password of my {product}.", "I cannot log in to my {product}.",
         "My {product} does not take my password.", "I am locked out of my {product}."),
        ("I have sent a link to reset the password of your {product}.",
         "You can unlock the {product} with a new password.", "We will reset the login of your {product}."),
        ("Your plan keeps the link open for {value} minutes.", "With your plan the code lasts {value} minutes.",
         "The code lasts {value} minutes with your plan."),
        (15, 20, 40, 50)),
    "cancel": Issue(
        ("I want to cancel my {product}.", "I do not need the {product} any more.",
         "Please stop my order of the {product}.", "I changed my mind about the {product}."),
        ("I have cancelled the order of your {product}.", "We will stop the order of your {product}.",
         "The order of the {product} is closed now."),
        ("Your plan lets you cancel for {value} hours.", "With your plan an order stays open for {value} hours.",
         "An order stays open for {value} hours with your plan."),
        (11, 22, 44, 66)),
    "refund": Issue(
        ("I want my money back for the {product}.", "I do not like the {product} and want a refund.",
         "I would like to return my {product}.", "Can I get a refund for my {product}?"),
        ("We will refund the price of your {product}.", "I have started the refund for your {product}.",
         "You will get your money back for the {product}."),
        ("Your plan allows refunds for {value} days.", "With your plan you may return things for {value} days.",
         "You may return things for {value} days with your plan."),
        (14, 30, 60, 90)),
    "upgrade": Issue(
        ("I want a better {product}.", "Can I trade my {product} for a newer model?",
         "My {product} is too small for me.", "Do you have a bigger {product}?"),
        ("We will trade your {product} for the new model.", "I have reserved a bigger {product} for you.",
         "You can swap the {product} for a better model."),
        ("Your plan sets the price at {value} dollars.", "With your plan the new model costs {value} dollars.",
         "The new model costs {value} dollars with your plan."),
        (95, 85, 75, 65)),
    "wrong item": Issue(
        ("You sent me the wrong {product}.", "I got another {product} than I ordered.",
         "The {product} in the box is not mine.", "My {product} has the wrong color."),
        ("We will send the right {product}.", "I have packed the correct {product} for you.",
         "A van will pick up the wrong {product}."),
        ("Your plan adds a credit of {value} points.", "With your plan a mistake is worth {value} points.",
         "A mistake is worth {value} points with your plan."),
        (25, 35, 45, 55)),
}

# What else a customer writes. The plan decides which of the shop's numbers are right.
PLAN_FORMS = ("I am on the {plan} plan.", "I have the {plan} plan.", "My plan is the {plan} plan.",
              "I pay for the {plan} plan.")
HAILS = ("Hello.", "Hi.", "Good morning.", "Hey there.", "Good evening.")
REMARKS = ("My order number is {number}.", "I bought it last week.", "I have been a customer for years.",
           "Can you help me?", "I need an answer soon.", "This is the second time I write.")
SIGNATURES = ("Best, {name}.", "Thanks, {name}.", "My name is {name}.")
ASKS_PLAN = ("Which plan do you have?", "What plan are you on?")
ASKS_ISSUE = ("What is the problem?", "What can we do for you?")
RECAPS = ("This is about my {product} on the {plan} plan.", "I wrote about the {product} and the {plan} plan.")
# What customers may say of an answer they got: each line is about one side of it, none about how good it is in all.
REPLIES = {
    "on topic": ("Yes, this is about my {product}.", "Good, you understood my {product}."),
    "off topic": ("No, this is not about my {product}.", "You did not understand my {product}."),
    "right": ("That is what the {plan} plan says.", "Yes, so it is on the {plan} plan."),
    "wrong": ("That is not what the {plan} plan says.", "No, not on the {plan} plan."),
    "polite": ("You are very kind.", "Thank you for the kind words."),
    "rude": ("You could be kinder.", "There is no need to be rude."),
    "padded": ("You write a lot.", "I do not need to know all that."),
}

# The parts of an answer that set its tone. Every tone may use every part, so that length does not tell the tone.
TONES = {
    "polite": {
        "greeting": ("Hello and thank you for your message.", "Good day and thanks for writing.",
                     "Hi, it is good to hear from you."),
        "acknowledgement": ("I am sorry for the trouble.", "I understand how you feel.", "We are sorry to hear that."),
        "closing": ("Please write again if you need us.", "Have a lovely day.", "We are happy to help you any time."),
    },
    "neutral": {
        "greeting": ("Hello from the shop.", "This is the help desk.", "Here is our answer."),
        "acknowledgement": ("I have read your message.", "We looked at your case.", "Your case is open now."),
        "closing": ("That is all for now.", "This case is closed.", "The rest is in your account."),
    },
    "rude": {
        "greeting": ("What is it now?", "Oh no, you again.", "Not another silly message."),
        "acknowledgement": ("This is your own fault.", "You should have read the terms.",
                            "Nobody else has this trouble."),
        "closing": ("Do not write again.", "Now leave us alone.", "Next time think first."),
    },
}

PADDING = ("Our shop has been open for many years.", "We value every single customer.",
           "There are many things in our shop.", "You can also visit our web site.",
           "Quality matters a lot to our company.", "Many people like our service.",
           "Our office has a nice garden.", "The weather is fine here today.")
