/* program.c - an external program that uses only what is installed:
** program DOMAIN FOLDER adds two numbers in the store FOLDER and shows the sum. */
#include <stdio.h>
#include <string.h>

#include <tidelog.h>

int main(int count, char **arguments) {
  tide_error error = {0};
  tide_options options = {0};
  tide_engine *engine = NULL;
  tide_actor actor = {0};
  tide_data payload = {TIDE_JSON, "{\"aggregateId\": \"a1\", \"number1\": 40, \"number2\": 2}", 0};
  tide_buffer state = {0};
  char uri[4096];

  if (count != 3) {
    fprintf(stderr, "usage: program DOMAIN FOLDER\n");
    return 2;
  }
  if (strcmp(tide_version(), TIDE_VERSION) != 0) {
    fprintf(stderr, "header %s, library %s\n", TIDE_VERSION, tide_version());
    return 1;
  }
  snprintf(uri, sizeof uri, "sqlite:%s", arguments[2]);
  options.domain = arguments[1];
  actor.id = "user1";
  actor.tenant = "tenant1";
  if (tide_open(uri, &options, &engine, &error) != TIDE_OK ||
      tide_command(engine, &actor, "AddNumbers", &payload, TIDE_JSON, NULL, &error) != TIDE_OK ||
      tide_load(engine, "tenant1", "Adder", "a1", NULL, TIDE_JSON, &state, &error) != TIDE_OK)
    fprintf(stderr, "%s: %s\n", tide_error_name(error.code), error.message);
  else
    printf("tidelog %s: %s\n", tide_version(), state.data);
  tide_free(&state);
  tide_close(engine);
  return error.code != TIDE_OK;
}
