"""The weights of the models: where they are, and how they are downloaded."""
