/* main.c - runs the contract for one store: contract STORE [PATTERN], where PATTERN
** (with * and ?) chooses cases by their names. */
#include <stdio.h>
#include <stdlib.h>

#include "contract.h"

int main(int argc, char **argv) {
  static const contract_group *const groups[] = {
      &contract_append_cases, &contract_scan_cases,     &contract_tenant_cases,
      &contract_lease_cases,  &contract_snapshot_cases, &contract_document_cases,
      &contract_name_cases,   &contract_argument_cases, &contract_model_cases,
      &contract_thread_cases, &contract_process_cases,  &contract_wait_cases,
      &contract_import_cases, &contract_reader_cases};
  if (argc < 2 || argc > 3 || !contract_choose(argv[1])) {
    fprintf(stderr,
            "usage: contract memory|sqlite|mongodb [PATTERN]\n"
            "mongodb: beneath tests/mongodb/with_server\n");
    return 2;
  }
  if (argc == 3) cmocka_set_test_filter(argv[2]);
  int failed = 0;
  for (size_t i = 0; i < COUNT(groups); i++) {
    char name[64];
    snprintf(name, sizeof name, "%s %s", argv[1], groups[i]->name);
    failed += _cmocka_run_group_tests(name, groups[i]->tests, groups[i]->count, NULL, NULL) != 0;
  }
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
