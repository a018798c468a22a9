/* id.c - unique ids that sort by the time they were made. */
#include "core/id.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "core/error.h"

int tide__random(uint64_t *bits, tide_error *error) {
  ssize_t got;
  do {
    got = getrandom(bits, sizeof *bits, 0); /* up to 256 bytes come whole or not at all */
  } while (got < 0 && errno == EINTR);
  if (got == (ssize_t)sizeof *bits) return TIDE_OK;
  return tide__fail_store(error, 0, "the system gave no random bytes: %s", strerror(errno));
}

int tide__id_new(char id[TIDE_ID_SIZE + 1], tide_error *error) {
  static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
  uint64_t random;
  struct timespec now;
  if (tide__random(&random, error) != TIDE_OK) return TIDE_STORE;
  if (clock_gettime(CLOCK_REALTIME, &now) != 0)
    return tide__fail_store(error, 0, "the system gave no time: %s", strerror(errno));
  uint64_t ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
  uint64_t fraction = (uint64_t)now.tv_nsec % 1000000; /* below 2^20 */
  uint64_t high = ms << 16 | fraction >> 4;
  uint64_t low = (fraction & 15) << 60 | random >> 4;
  /* 128 bits are 26 digits of 5 bits, the first digit has 3 */
  for (int i = TIDE_ID_SIZE - 1; i >= 0; i--) {
    id[i] = digits[low & 31];
    low = low >> 5 | high << 59;
    high >>= 5;
  }
  id[TIDE_ID_SIZE] = '\0';
  return TIDE_OK;
}
