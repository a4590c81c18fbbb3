/* `sierradb dump FILE`: prints any file of a data directory. argv[0] is "dump". Returns the exit
 * status. */
#pragma once

int dump_main(int argc, char **argv);
