"""The parts of the trainer's panel, a file each: all of them talk to the engine through a `Session`."""
