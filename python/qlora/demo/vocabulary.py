"""The words that fill the gaps of Home Assistant's sentence templates.

Real Home Assistant fills `{name}`, `{area}` and `{floor}` at run time, with the devices and rooms
of one home, and takes any text where a template has a wildcard. This home is invented.
"""

AREAS = (
    "kitchen", "living room", "bedroom", "bathroom", "garage", "office", "hallway", "attic",
    "dining room", "guest room", "nursery", "laundry room", "basement", "balcony", "studio",
)  # fmt: skip

FLOORS = ("ground", "first", "second", "top", "upper", "lower")

# Home Assistant's device domain -> names; a template says which domains its `{name}` may belong to.
NAMES = {
    "binary_sensor": ("front door", "back window", "motion sensor", "mailbox", "patio door"),
    "button": ("doorbell", "restart", "coffee"),
    "climate": ("thermostat", "heater", "air conditioner", "heat pump", "radiator"),
    "cover": ("left blind", "garage door", "patio awning", "bay curtain", "skylight shade"),
    "fan": ("ceiling fan", "desk fan", "exhaust fan", "tower fan"),
    "input_boolean": ("guest mode", "vacation mode", "night mode"),
    "input_button": ("panic", "reset"),
    "lawn_mower": ("robomow", "grass hopper", "shaun"),
    "light": ("desk lamp", "chandelier", "reading lamp", "porch light", "night light", "led strip"),
    "lock": ("front door lock", "gate lock", "side door", "cellar lock"),
    "media_player": ("tv", "stereo", "sonos", "radio", "projector", "soundbar"),
    "person": ("alice", "bob", "maria", "kenji", "fatima"),
    "scene": ("movie night", "romantic", "good morning", "party", "relax"),
    "script": ("bedtime routine", "leaving home", "water the plants", "wake up"),
    "sensor": ("outdoor humidity", "battery level", "power meter", "air quality"),
    "switch": ("coffee maker", "kettle", "outlet", "sprinkler", "heated blanket"),
    "todo": ("chores", "packing", "weekend", "gift", "garden"),
    "vacuum": ("roomba", "dusty", "robovac", "deebot"),
    "valve": ("water valve", "gas valve", "garden hose"),
    "weather": ("london", "paris", "tokyo", "the coast"),
}

# Wildcard list of the templates -> example texts.
FREE_TEXT = {
    "message": ("dinner is ready", "we leave in ten minutes", "the movie starts", "good night"),
    "search_query": ("bohemian rhapsody", "the beatles", "jazz", "morning news", "inception"),
    "shopping_list_item": ("milk", "eggs", "olive oil", "toilet paper", "apples", "coffee beans"),
    "timer_command": ("open the garage door", "turn off the lights", "lock the front door"),
    "timer_name": ("pizza", "laundry", "tea", "pasta", "homework", "nap"),
    "todo_list_item": ("wash the car", "call mom", "buy stamps", "clean the windows", "passport"),
    "zone": ("home", "work", "school", "gym"),
}
