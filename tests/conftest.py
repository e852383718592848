"""What holds for all tests."""

import os

from hypothesis import settings

# A busy machine is no defect. CI tries the same examples each time, so that a change is judged by
# what it changed; everywhere else each run looks at new ones.
settings.register_profile("jobledger", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("jobledger")
