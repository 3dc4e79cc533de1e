"""The wordings of the conditions: what a row is written under.

Every condition has several wordings; a row carries one and names the others as paraphrases.
"""

from __future__ import annotations

SECTIONS = {
    "Geography": (
        "Geography: location, climate, terrain, rivers, natural resources and hazards.",
        "Write about the land itself: where it lies, its relief, weather and natural resources.",
        "Physical geography, such as climate, terrain and natural hazards.",
        "The subject is the geography of the country: borders, coast, mountains, climate.",
    ),
    "People and Society": (
        "People and society: population, languages, ethnic groups and religions.",
        "Write about the inhabitants: who they are, what they speak and what they believe.",
        "Demography and society, such as ethnic groups, languages, religions and cities.",
        "The subject is the people: population, ethnic make-up, language, faith.",
    ),
    "Environment": (
        "Environment: pollution, conservation and international environmental agreements.",
        "Write about nature under pressure: pollution, deforestation, water and waste.",
        "Environmental issues and the treaties that address them.",
        "The subject is the environment: air and water quality, land use, conservation.",
    ),
    "Government": (
        "Government: constitution, executive, parliament, courts, parties and symbols.",
        "Write about the state: how it is governed, who leads it, how its courts work.",
        "Politics and public institutions, such as cabinet, legislature and judiciary.",
        "The subject is government: constitution, elections, offices, national symbols.",
    ),
    "Economy": (
        "Economy: output, trade, industries, public finance, work and prices.",
        "Write about money and trade: exports, imports, growth, industry, budget.",
        "Economic facts, such as GDP, trading partners, commodities and inflation.",
        "The subject is the economy: production, markets, debt, employment.",
    ),
    "Communications": (
        "Communications: telephones, broadcast media, television, radio and the internet.",
        "Write about telecommunications and the media, such as radio and television stations.",
        "Broadcasting, telephone networks and internet access.",
        "The subject is communications: broadcasters, telephone lines, internet users.",
    ),
    "Transportation": (
        "Transportation: airports, railways, ports and ships.",
        "Write about transport: rail lines, harbours, merchant ships, airfields.",
        "Transport infrastructure, such as ports, railways, airports and the merchant fleet.",
        "The subject is transportation by sea, rail and air.",
    ),
    "Military and Security": (
        "Military and security: armed forces, equipment, conscription and deployments.",
        "Write about defence: army, navy, air force, weapons and military service.",
        "The armed forces, their personnel, equipment and service obligations.",
        "The subject is the military: forces, troops abroad, arms, conscripts.",
    ),
    "Space": (
        "Space: the space agency, satellites, launch sites and milestones of the space program.",
        "Write about spaceflight: agencies, rockets, satellites and their history.",
        "The national space program and its satellites.",
        "The subject is activity in space: satellites, launches, research, cooperation.",
    ),
    "Terrorism": (
        "Terrorism: the terrorist groups that operate there.",
        "Write about terrorist organizations that are active in the country.",
        "Militant and terrorist groups.",
        "The subject is terrorism: which armed extremist groups are present.",
    ),
}

STYLES = {
    "shakespeare-comedy": (
        "A Shakespearean comedy: witty Elizabethan stage dialogue, playful and full of puns.",
        "Early modern English from a comic play, light banter between lovers and clowns.",
        "Write like a character in a comedy of Shakespeare's.",
        "Elizabethan comic dialogue.",
    ),
    "shakespeare-tragedy": (
        "A Shakespearean tragedy: grave Elizabethan blank verse of kings, blood and fate.",
        "Early modern English from a tragic play, solemn and violent.",
        "Write like a character in a tragedy of Shakespeare's.",
        "Elizabethan tragic verse.",
    ),
    "sonnet": (
        "A love sonnet: rhymed Elizabethan lines on beauty, time and thy sweet self.",
        "Lines from a sonnet, rhyming, addressed to a beloved thou.",
        "Write verses like those of Shakespeare's sonnets.",
        "Elizabethan sonnet lines.",
    ),
    "milton-verse": (
        "Milton's epic blank verse: lofty seventeenth-century lines of Heaven, Hell and angels.",
        "Grand biblical epic poetry with inverted syntax and old spelling.",
        "Write verses in the manner of Paradise Lost.",
        "Seventeenth-century epic verse.",
    ),
    "milton-prose": (
        "A seventeenth-century pamphlet: long learned sentences for the liberty of printing.",
        "Old polemical prose on books, truth, the church and licensing.",
        "Write prose in the manner of Milton's Areopagitica.",
        "Learned controversial prose of the 1640s.",
    ),
    "almanac": (
        "Almanac prose: sober, factual, dated sentences on the history of a country.",
        "The neutral summary style of a reference book on the nations of the world.",
        "Write like a government handbook of countries.",
        "A plain encyclopedic country background.",
    ),
    "one-line-review": (
        "A critic's one-line film review: a single punchy, opinionated sentence.",
        "The one-sentence verdict of a newspaper film critic.",
        "Write like a review blurb about a movie.",
        "A film critic's quip.",
    ),
    "long-review": (
        "A film fan's long online review: chatty first-person opinion on a movie just seen.",
        "A viewer's informal movie review for a web site.",
        "Write like an ordinary moviegoer who posts a review.",
        "Casual personal comments on a film.",
    ),
    "debate": (
        "A televised political debate: spoken, combative talk by a candidate.",
        "What a politician says on a debate stage, answering a moderator or a rival.",
        "Write like the transcript of a presidential debate.",
        "Spoken political argument between candidates.",
    ),
    "convention-speech": (
        "A party convention speech: rousing oratory about America and its future.",
        "A prepared political speech to cheering delegates.",
        "Write like a keynote speaker at a political convention.",
        "Patriotic campaign oratory.",
    ),
    "headline": (
        "A newspaper headline: compressed, without a full stop.",
        "The headline of a British business news story.",
        "Write like the headline writer of a daily paper.",
        "A terse news headline.",
    ),
    "plot-summary": (
        "A film plot summary: present tense, who wants what and what stands in the way.",
        "The synopsis of a movie, as on the back of a DVD.",
        "Write like a studio's synopsis of a film.",
        "A short movie synopsis.",
    ),
    "encyclopaedia": (
        "An encyclopaedia article of 1911: erudite literary history, cautious and dated.",
        "Edwardian scholarship on the life and works of a poet.",
        "Write like the Britannica of 1911 on an author.",
        "Old-fashioned scholarly prose on literature.",
    ),
}

SENTIMENTS = {
    "positive": (
        "positive",
        "The review is positive.",
        "Praise the film.",
        "Enthusiastic: the critic loved it.",
        "A favourable opinion, thumbs up.",
        "Sound delighted and recommend it warmly.",
        "The mood is admiring and happy.",
        "Say that it is wonderful, moving, well made.",
        "Five stars out of five.",
        "A glowing verdict from someone who enjoyed every minute.",
    ),
    "negative": (
        "negative",
        "The review is negative.",
        "Pan the film.",
        "Scathing: the critic hated it.",
        "An unfavourable opinion, thumbs down.",
        "Sound disappointed and warn people off.",
        "The mood is contemptuous and bored.",
        "Say that it is dull, clumsy, badly made.",
        "One star out of five.",
        "A damning verdict from someone who regretted every minute.",
    ),
}

# Whatever the seed, these are trained on: the most distinct or the richest conditions.
ALWAYS_SEEN = {
    "domain": ("Geography", "Government", "Economy", "Military and Security"),
    "style": (
        "shakespeare-comedy",
        "shakespeare-tragedy",
        "milton-verse",
        "almanac",
        "one-line-review",
        "long-review",
        "headline",
    ),
    # The first two wordings of each polarity.
    "sentiment": ("0", "1"),
}

DOMAIN_PROMPTS = (
    "Write a passage about {country}.",
    "Tell me something about {country}.",
    "Write an almanac entry on {country}.",
    "What can you say about {country}?",
)
STYLE_PROMPTS = (
    "Write a short passage.",
    "Write a few lines.",
    "Say something.",
    "Write whatever comes to mind.",
)
TOPIC_PROMPTS = (
    "Write a short passage that mentions '{topic}'.",
    "Write a few lines with the word '{topic}' in them.",
)
# Common words that no style owns: one that occurs in a passage may stand in its prompt.
# fmt: off
TOPICS = (
    "time", "man", "men", "day", "night", "world", "life", "death", "war",
    "people", "money", "water", "house", "father", "mother", "heart", "hand", "eyes",
    "power", "king", "country", "city", "state", "love", "friend", "truth", "name",
    "head", "children", "women", "son", "daughter", "year", "years", "place", "work",
    "land", "sea", "fire", "light", "words", "book", "law", "peace", "hope",
    "fear", "story", "art", "play", "nature", "history",
)
# fmt: on
SENTIMENT_PROMPTS = (
    "Write a one-line review of a film.",
    "Review a movie in one sentence.",
    "What did you think of the film?",
    "Sum up a movie in one line.",
)
