// Which rows are in view, of more rows than a page can be high.

// Browsers cannot make an element as high as a million rows (Firefox stops at 17.8 million pixels): beyond this the
// scroll bar stands for a share of the table, while wheels and keys still move by pixels.
const SCROLL_HIGHEST = 8_000_000;
const SCROLL_IDLE_MS = 300;

/**
 * Maps an element's scroll bar to rows of `row` pixels below a head of one row.
 *   top: where the view begins, in pixels of a table that is as high as it should be.
 *   heading: −1, 0 or 1, the way somebody scrolls.
 */
export function rowScroll(grid, sizer, row, total, moved) {
  let last = 0;
  let idle = null;
  const whole = () => total() * row;
  const scaled = () => whole() > SCROLL_HIGHEST;
  const rowsHeight = () => Math.max(0, grid.clientHeight - row);
  const furthest = () => Math.max(0, whole() - rowsHeight());
  const way = () => Math.max(1, sizer.offsetHeight - grid.clientHeight);
  const self = {
    top: 0,
    heading: 0,
    rowsHeight,
    /** How high the rows are in the page. */
    height: () => Math.min(whole(), SCROLL_HIGHEST),
    /** The first row in view, and the one after the last. */
    visible() {
      const first = Math.min(Math.max(0, Math.floor(self.top / row)), Math.max(0, total() - 1));
      return [first, Math.min(total(), first + Math.ceil(rowsHeight() / row) + 1)];
    },
    keepWithin() {
      self.top = Math.min(self.top, furthest());
    },
    reset() {
      [self.top, self.heading, last] = [0, 0, 0];
      grid.scrollTop = 0;
    },
    reveal(index) {
      const y = index * row;
      if (y < self.top) self.top = y;
      else if (y + row > self.top + rowsHeight()) self.top = Math.min(furthest(), y + row - rowsHeight());
      align();
    },
    close() {
      clearTimeout(idle);
      grid.removeEventListener("scroll", scrolled);
    },
  };

  function scrolled() {
    const [now, by] = [grid.scrollTop, grid.scrollTop - last];
    if (by === 0) return;
    last = now;
    const near = Math.abs(by) < grid.clientHeight; // a wheel or a finger; who drags the bar jumps
    self.heading = near ? Math.sign(by) : 0;
    if (!scaled()) self.top = now;
    else if (now <= 0) self.top = 0;
    else if (now >= way() - 1) self.top = furthest();
    else if (near) self.top = Math.min(furthest(), Math.max(0, self.top + by));
    else self.top = Math.round((now / way()) * furthest());
    if (scaled()) {
      clearTimeout(idle);
      idle = setTimeout(align, SCROLL_IDLE_MS);
    }
    moved();
  }

  /** Bring the scroll bar to where the rows in view are. */
  function align() {
    const share = scaled() ? (self.top / Math.max(1, furthest())) * way() : self.top;
    if (Math.abs(grid.scrollTop - share) >= 1) grid.scrollTop = share;
    last = grid.scrollTop;
  }

  grid.addEventListener("scroll", scrolled);
  return self;
}
