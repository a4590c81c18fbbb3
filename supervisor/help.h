/* Texts of --help. */
#pragma once

/* command: NULL for the whole program. Exits with a message where there is no such command. */
void help_print(const char *command);
