"""How fast this machine dubs, and why. In: a film. Out: figures by stage, by kind of work, beside another edition and the published way."""
