"""All scenarios: each is one function of a Trial that runs, in the file of its topic; what it finds goes to
trial.expect, trial.goal and trial.say."""

import discovery  # noqa: F401
import scenarios_catchup  # noqa: F401
import scenarios_client  # noqa: F401
import scenarios_clock  # noqa: F401
import scenarios_disk  # noqa: F401
import scenarios_network  # noqa: F401
import scenarios_power  # noqa: F401
import scenarios_process  # noqa: F401
import scenarios_subscribe  # noqa: F401
import soak  # noqa: F401
from scenario import SCENARIOS  # noqa: F401
