"""SB3 policies, their normalisers, and the actor as a module that returns an npg distribution."""
