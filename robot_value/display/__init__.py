"""Live view: decisions in Rerun or Foxglove while they are made, or as a file. It never slows or stops the loop.

A component of kind "displays" is a Config whose `build(spec, name)` returns a Display: the Watcher that hands what one
robot saw, weighed and did (`Shown`) to a Sink in a thread of its own.
"""
