"""The command lines of the Pensieve guide, literally, and what runs them: bash, and models of their names."""
