"""`musetalk serve`: the dub on a local web page.

    page (browser) -- guard -- app -- folder      names in one folder, and nothing else
                                  |-- casting     cast.toml as the page shows and changes it
                                  |-- stills      a frame of a film as a picture
                                  '-- tasks ----- worker (a process) -- inspect, dub, verify

It owns no logic: whatever is decided, made or refused is decided, made or refused by the functions that the commands call.
"""
