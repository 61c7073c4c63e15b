"""Pure decisions of the coordinator: values and time in, values out."""
