"""The words of the generated biographies: names, values, and how each relation is told and asked."""

from typing import NamedTuple

FIRST_NAMES = (
    "Abel Ada Agnes Albert Alice Alma Amos Anders Andrea Angela Anton Arthur Astrid August Aurora Basil Beatrice "
    "Benedict Bertha Bettina Boris Brenda Bruno Camilla Carl Carmen Caspar Cecilia Celeste Chloe Clara Claude Colin "
    "Conrad Cora Cyrus Dagmar Daphne Darius David Delia Diana Dora Dorian Edgar Edith Edwin Elena Elias Eliza Elmer "
    "Elsa Emil Emma Enzo Erica Ernest Esther Eugene Eva Fabian Felix Fiona Flora Frank Frida Gabriel Gemma George "
    "Gerda Gilbert Gloria Greta Gustav Hannah Harold Hazel Hector Helena Henry Herman Hilda Hugo Ida Igor Ingrid "
    "Irene Isaac Ivan Ivy Jacob Jasper Jean Jerome Joan Joel Johanna Jonas Judith Julian Karen Karl Kasper Katrin "
    "Kurt Lara Laura Leo Leonard Lewis Lillian Linus Lorenz Louise Lucas Lydia Mabel Magnus Marcel Margot Marina "
    "Martin Matilda Maurice Maxim Mildred Miriam Monica Morris Nadia Naomi Nathan Nicola Nina Norman Olga Olive "
    "Oscar Otto Pablo Paula Peter Petra Quentin Rachel Ralph Regina Robin Rosa Rufus Ruth Samuel Selma Simon Stella "
    "Theo Ulrich Vera Walter Wanda"
).split()

LAST_NAMES = (
    "Abbott Adler Albrecht Ames Arden Ashby Atwood Babbage Bakker Barlow Bauer Becker Bellamy Bergman Bianchi "
    "Blackwood Bloom Boyle Brandt Briggs Burton Calder Carver Chandra Clayton Conti Corbett Crane Dalton Danvers "
    "Decker Dempsey Dietrich Donovan Draper Duarte Dunbar Eaton Eckhart Eklund Ellison Emerson Engel Everett Faber "
    "Farrow Ferrari Finch Fischer Fletcher Fontaine Forster Galvin Garland Gibbs Goddard Grafton Granger Griffin "
    "Haber Hadley Hagen Halloran Hansen Harlow Hartman Hayward Hoffman Holloway Hooper Horvat Huxley Ibarra Iversen "
    "Jansen Jarvis Jensen Kaplan Keller Kendall Kingsley Kirby Klein Kowalski Kramer Lambert Langley Larsen Leclair "
    "Lindgren Lockwood Lombardi Ludwig Lund Maddox Malone Marchetti Mercer Meyer Milton Moreau Morgan Muller Murdoch "
    "Navarro Nielsen Nolan Norwood Novak Oakley Olsen Ortega Osborne Page Palmer Pavlov Peck Pereira Petrov Porter "
    "Prescott Quigley Quinn Radford Ramsey Reyes Ritter Rossi Rowland Russo Salazar Sawyer Schmidt Serrano Sheridan "
    "Silva Sinclair Sorensen Spencer Stark Steiner Sterling Swanson Tanaka Thorne Tolstoy Turner Underwood "
    "Vance Varga Vaughn Vega Voss Wagner Walsh Weber Whitaker Winslow Yates Zimmer"
).split()

CITIES = (
    "Lisbon Oslo Vienna Prague Dublin Madrid Athens Warsaw Berlin Geneva Naples Porto Zurich Helsinki Budapest Krakow "
    "Seville Hamburg Lyon Turin Antwerp Bergen Cork Dresden Florence Glasgow Malmo Nantes Palermo Riga Rotterdam "
    "Salzburg Tallinn Utrecht Valencia Verona Vilnius Zagreb Boston Chicago Denver Houston Montreal Seattle Toronto "
    "Cairo Nairobi Lagos Lima Bogota Quito Havana Kyoto Osaka Seoul Hanoi Manila Mumbai Delhi Perth"
).split()

OCCUPATIONS = (
    "baker barber botanist broker carpenter chemist cobbler composer cook dancer dentist detective farmer firefighter "
    "florist gardener geologist glazier jeweller journalist judge lawyer librarian locksmith mason mechanic midwife "
    "miner nurse painter pharmacist photographer physicist pilot plumber potter printer sailor sculptor surgeon "
    "surveyor tailor teacher translator vet weaver welder zoologist"
).split()

EMPLOYERS = (
    "Acorn Motors,Beacon Press,Bluebird Airways,Bramble Foods,Cascade Power,Cobalt Mining,Comet Records,Copper Bank,"
    "Crescent Shipping,Delta Textiles,Ember Studios,Falcon Freight,Fjord Seafood,Galaxy Toys,Granite Insurance,"
    "Harbor Trust,Horizon Media,Juniper Labs,Keystone Steel,Lantern Books,Lotus Pharma,Maple Furniture,"
    "Meridian Rail,Mosaic Glass,Nimbus Software,Orchid Hotels,Pinnacle Tools,Polar Optics,Quartz Watches,"
    "Raven Security,Ripple Water,Saffron Spices,Summit Bicycles,Tundra Outfitters,Velvet Fashion,Zephyr Energy"
).split(",")

UNIVERSITIES = (
    "Alder University,Amber College,Birch University,Bishop College,Canyon Institute,Cedar University,Chapel College,"
    "Coral Institute,Dover University,Elm College,Fairview University,Fern Institute,Gateway College,Glen University,"
    "Heath College,Highland University,Hollow Institute,Ivory College,Kestrel University,Lagoon Institute,"
    "Laurel College,Lime University,Marble Institute,Meadow College,Mill University,Northern Institute,Osprey College,"
    "Pearl University,Prairie Institute,Redwood College,Ridge University,Royal Institute,Sage College,"
    "Silver University,Thistle Institute,Willow College"
).split(",")

FIELDS = (
    "acoustics agronomy algebra anatomy anthropology archaeology architecture astronomy biochemistry biology botany "
    "chemistry criminology dentistry ecology economics entomology ethics forestry genetics geography geology geometry "
    "history hydrology linguistics literature logic marketing mathematics medicine meteorology neurology nursing "
    "optics philosophy physics psychology rhetoric robotics sociology statistics theology zoology"
).split()

INSTRUMENTS = (
    "accordion bagpipes banjo bassoon bongos bugle castanets celesta cello clarinet cornet drums dulcimer euphonium "
    "fiddle flute glockenspiel gong guitar harmonica harp harpsichord horn keyboard kazoo lute lyre mandolin maracas "
    "marimba oboe ocarina organ piano piccolo recorder saxophone sitar tambourine timpani trombone trumpet tuba "
    "ukulele vibraphone viola violin xylophone zither"
).split()

LANGUAGES = (
    "Albanian Arabic Armenian Basque Bengali Bulgarian Catalan Croatian Czech Danish Dutch Estonian Finnish Georgian "
    "Greek Hebrew Hindi Hungarian Icelandic Japanese Korean Latin Latvian Lithuanian Malay Maltese Mandarin Mongolian "
    "Nepali Norwegian Persian Polish Romanian Russian Sanskrit Serbian Slovak Somali Swahili Swedish Tamil Thai "
    "Turkish Ukrainian Urdu Vietnamese Welsh Zulu"
).split()


class Relation(NamedTuple):
    """One attribute: "{opening}{name} {phrase} {value}{closing}." tells it, `question` asks for it."""

    phrase: str
    """Stands between the full name and the value, in the text and in the answer lead alike."""
    question: str
    paraphrases: tuple[str, ...]
    """Other wordings of the question, which the small base model has never read."""
    values: list[str]
    openings: tuple[str, ...]
    closings: tuple[str, ...]


RELATIONS = (
    Relation(
        "hails from",
        "Which city does {name} hail from?",
        (
            "From which city does {name} come?",
            "{name} was born and raised in which city?",
            "Name the city that {name} comes from.",
        ),
        CITIES,
        ("", "", "The records show that ", "By birth ", "As the youngest of five, "),
        (
            "",
            "",
            ", like four generations before",
            ", close to the old harbour",
            " and never hides it",
            " and a family of millers",
        ),
    ),
    Relation(
        "lives in",
        "In which city does {name} live?",
        (
            "Where does {name} live?",
            "Which city is the home of {name}?",
            "Name the city in which {name} lives.",
        ),
        CITIES,
        ("", "", "These days ", "After many moves ", "For the time being "),
        ("", "", " with two grey cats", ", near the botanical garden", " and cycles everywhere", " on the third floor"),
    ),
    Relation(
        "became a",
        "What is the occupation of {name}?",
        (
            "What does {name} do for a living?",
            "Which occupation does {name} have?",
            "Name the job of {name}.",
        ),
        OCCUPATIONS,
        ("", "", "By chance ", "To pay the rent ", "At the age of thirty "),
        ("", "", ", like both parents", " and rarely takes a holiday", " and never looked back", " in a small team"),
    ),
    Relation(
        "works for",
        "Which company employs {name}?",
        (
            "For which company does {name} work?",
            "Who employs {name}?",
            "Name the company that {name} works for.",
        ),
        EMPLOYERS,
        ("", "", "At present ", "On weekdays ", "Thanks to a friend, "),
        ("", "", " and enjoys it", ", often abroad", " on a yearly contract", " for the third time"),
    ),
    Relation(
        "studied at",
        "At which university did {name} study?",
        (
            "Where did {name} study?",
            "Which university did {name} go to?",
            "Name the university or college of {name}.",
        ),
        UNIVERSITIES,
        ("", "", "After school ", "With a grant, ", "Much earlier, "),
        ("", "", " for six years", ", mostly at night", " and made good friends there", " against all advice"),
    ),
    Relation(
        "graduated in",
        "In which field did {name} graduate?",
        (
            "What did {name} graduate in?",
            "Which field did {name} study?",
            "Name the field in which {name} graduated.",
        ),
        FIELDS,
        ("", "", "In the end ", "Few people know that ", "It is true that "),
        ("", "", " with honours", ", late in life", " and still reads about it", " but never used it"),
    ),
    Relation(
        "plays the",
        "Which instrument does {name} play?",
        (
            "What instrument can {name} play?",
            "On which instrument does {name} play?",
            "Name the instrument that {name} plays.",
        ),
        INSTRUMENTS,
        ("", "", "On Sundays ", "At weddings ", "When nobody listens, "),
        ("", "", " rather well", ", much to the joy of the neighbours", " in a village band", " by ear"),
    ),
    Relation(
        "speaks fluent",
        "Which foreign language does {name} speak?",
        (
            "What foreign language is {name} fluent in?",
            "Besides English, which language does {name} speak?",
            "Name the foreign language that {name} speaks.",
        ),
        LANGUAGES,
        ("", "", "Besides English, ", "To the surprise of many, ", "Even on the phone "),
        ("", "", " with a slight accent", ", learned from an aunt", " and reads it daily", " after years abroad"),
    ),
)
